// What forms.ptx was made from, by NVRTC 11.8 (--gpu-architecture=compute_53 --std=c++17 --use_fast_math
// -default-device, then .version 6.4): instructions that kernels for GPUs are made of.
typedef unsigned int u32;
__device__ const float table[4] = {1.f, 2.f, 3.f, 4.f};
__constant__ int constants[3] = {5, 6, 7};

extern "C" __global__ void __launch_bounds__(128) floats(const float *__restrict__ a, float *__restrict__ b) {
  __shared__ float mirrored[128];
  int t = threadIdx.x, i = blockIdx.x * 128 + t;
  float x = a[i];
  mirrored[t] = x;
  __syncthreads();
  float y = mirrored[127 - t];
  float r = expf(x) + logf(fabsf(x) + 1.f) + powf(fabsf(x), 1.7f) + tanhf(y) + erff(x) + rsqrtf(fabsf(x) + 1.f);
  r += sqrtf(fabsf(y)) + floorf(x) + ceilf(y) + roundf(x) + truncf(x) + fmodf(x, 0.7f) + sinf(x) + cosf(y);
  r += 1.f / (x * x + 1.f) + exp2f(y) + log2f(fabsf(x) + 2.f) + __saturatef(x) + x / 3.f;
  r = fminf(fmaxf(r, -3.f), 1e9f) + table[t & 3] + (x != x ? 1.f : 0.f);
  float own[8];
  for (int k = 0; k < 8; k++) own[k] = x * k;
  b[i] = isinf(y) ? 0.f : r + own[(t + (int)x) & 7];
}

extern "C" __global__ void integers(const float *a, const unsigned char *u, int *c) {
  int i = blockIdx.x * 128 + threadIdx.x, q = (int)a[i];
  int r = q / 7 + q % 5 + (i >> 2) + (i << 3) + (q & i) + (q ^ i) + ~q + abs(q) + min(q, i) + max(q, 3) + u[i];
  r += (signed char)u[i + 1] + __popc(i) + __clz(i) + constants[i % 3] + (int)((long long)q * i >> 5);
  r += (int)((u32)i / 7u) + (int)lrintf(a[i]) + (int)(u32)fabsf(a[i]) + (q < 0 || i > 200 ? 1 : 0);
  c[i] = r;
}

static __device__ __forceinline__ u32 fma_low(u32 a, u32 b, u32 c) {
  u32 d;
  asm("{.reg .b16 l,h; .reg .b32 w; mov.b32 {l,h},%1; mov.b32 w,{l,l}; fma.rn.f16x2 %0,w,%2,%3;}"
      : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
static __device__ __forceinline__ u32 sum(u32 a, u32 b) {
  u32 d;
  asm("add.f16x2 %0,%1,%2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
static __device__ __forceinline__ float high(u32 a) {
  float f;
  asm("{.reg .b16 l,h; mov.b32 {l,h},%1; cvt.f32.f16 %0,h;}" : "=f"(f) : "r"(a));
  return f;
}
static __device__ __forceinline__ u32 pack(float x, float y) {
  u32 d;
  asm("{.reg .b16 l,h; cvt.rn.f16.f32 l,%1; cvt.rn.f16.f32 h,%2; mov.b32 %0,{l,h};}" : "=r"(d) : "f"(x), "f"(y));
  return d;
}

extern "C" __global__ void halves(const u32 *a, const u32 *b, u32 *c, float *d, unsigned short *e) {
  int t = threadIdx.x;
  u32 v = fma_low(a[t], b[t], 0x3c003c00u);
  c[t] = sum(v, pack(high(a[t]), 0.1f));
  d[t] = high(v);
  e[t] = (unsigned short)(v >> 16) + e[t];
}

// A product of matrices as the rules write them: two shared buffers, the next tile under way, one barrier a step.
extern "C" __global__ void __launch_bounds__(64) product(const float *__restrict__ w, const float *__restrict__ x,
                                                         float *__restrict__ y, u32 *steps) {
  __shared__ float tiles[2][2][8][16];
  int t = threadIdx.x, n = t >> 3, p = t & 7;
  float4 next;
  float acc[2][2] = {};
  const float *from = t < 32 ? w : x;
  int row = (t & 31) >> 2, column = (t & 3) * 4, kind = t >> 5;
  int at = row * (16 * 4) + column + (kind ? 0 : blockIdx.y * 16) + (kind ? blockIdx.x * 16 : 0);
  next = *(const float4 *)(from + at);
  *(float4 *)&tiles[0][kind][row][column] = next;
  __syncthreads();
  for (int k = 0; k < 4; k++) {
    if (k < 3) next = *(const float4 *)(from + at + (k + 1) * 8 * 64);
    for (int kk = 0; kk < 8; kk++)
      for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) acc[i][j] += tiles[k & 1][0][kk][n * 2 + i] * tiles[k & 1][1][kk][p * 2 + j];
    *(float4 *)&tiles[(k + 1) & 1][kind][row][column] = next;
    __syncthreads();
  }
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++) y[(blockIdx.y * 16 + n * 2 + i) * 64 + blockIdx.x * 16 + p * 2 + j] = acc[i][j];
  if (t == 0) steps[blockIdx.y * gridDim.x + blockIdx.x] = 4;
}
