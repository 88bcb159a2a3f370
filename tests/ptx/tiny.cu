// What tiny.ptx was made from (as forms.ptx was): an online network of two layers and one shift cache, 3x7x7 frames.
// Planes of 49 floats begin every 52.
enum { PIXELS = 49, PLANE = 52, CHANNELS = 4, CLASSES = 5 };

extern "C" __global__ void frame_bytes(const unsigned char *bytes, float *frame) {
  int i = threadIdx.x;
  if (i < PIXELS)
    for (int c = 0; c < 3; c++) frame[c * PIXELS + i] = (float)bytes[3 * i + c] * 0.0078125f - 1.f;
}

// target[c] = max(0, frame[c % 3] * weights[c] + weights[4 + c]); channel 0 goes to the next frame, too.
extern "C" __global__ void scale(const float *frame, const float *weights, float *target, float *tap) {
  int i = threadIdx.x, c = blockIdx.x;
  if (i >= PIXELS) return;
  float y = fmaxf(frame[c % 3 * PIXELS + i] * weights[c] + weights[CHANNELS + c], 0.f);
  target[c * PLANE + i] = y;
  if (c == 0) tap[i] = y;
}

// Sums of the planes, channel 0 from the frame before, times a matrix.
extern "C" __global__ void head(const float *source, const float *cache, const float *weights, float *logits) {
  __shared__ float sums[CHANNELS];
  int i = threadIdx.x;
  if (i < CHANNELS) {
    float sum = 0.f;
    for (int p = 0; p < PIXELS; p++) sum += i == 0 ? cache[p] : source[i * PLANE + p];
    sums[i] = sum;
  }
  __syncthreads();
  if (i >= CLASSES) return;
  float y = 0.f;
  for (int c = 0; c < CHANNELS; c++) y += sums[c] * weights[i * CHANNELS + c];
  logits[i] = y;
}
