// Shows what the server sends over a WebSocket, and answers each message once it is drawn: a browser that is slow, or
// out of sight, is sent less.
"use strict";

const HISTORY_S = 300;
const SHOWN_STEPS = 300;
const KEPT_SEGMENTS = 2000;
const SHOWN_LABELS = 6;
// A screen reader is told a new label at most this often, and the lists change no faster, in milliseconds.
const SPEAK_MS = 2000;
const LIST_MS = 500;
const SILENT_S = 2;
const RECEIVERS = {
  file: "Events to the file",
  webhook: "Events to the webhook",
  mqtt: "Events over MQTT",
  clips: "Clips",
  "clip frames": "Frames for clips",
};

const element = (id) => document.getElementById(id);
const steps = [];
const segments = new Map();
let paused = false;
let spokenAt = 0;
let listedAt = 0;
let retryMs = 500;

function setText(id, text) {
  const node = element(id);
  if (node.textContent !== text) node.textContent = text;
}

function percent(share) {
  return `${(100 * share).toFixed(share >= 0.1 ? 0 : 1)} %`;
}

function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

// The same colour for the same label, whoever looks; steps of the golden angle keep neighbours apart.
function colour(label) {
  let hash = 0;
  for (const letter of label) hash = (hash * 31 + letter.codePointAt(0)) % 9973;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return `hsl(${(hash * 137.508) % 360} 60% ${dark ? 62 : 45}%)`;
}

function prepared(canvas) {
  const ratio = devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

function drawTimeline(now) {
  const { context, width, height } = prepared(element("timeline"));
  for (const { label, start, end } of segments.values()) {
    const left = width * (1 - (now - start) / HISTORY_S);
    const right = width * (1 - (now - end) / HISTORY_S);
    context.fillStyle = colour(label);
    context.fillRect(left, 0, Math.max(right - left, 1), height);
  }
}

function drawSteps() {
  const { context, width, height } = prepared(element("steps"));
  if (!steps.length) return;
  const sorted = [...steps].sort((left, right) => left - right);
  const at = (share) => sorted[Math.min(Math.floor(share * sorted.length), sorted.length - 1)];
  const [p50, p90] = [at(0.5), at(0.9)];
  setText("p50", `${p50.toFixed(2)} ms`);
  setText("p90", `${p90.toFixed(2)} ms`);
  setText("step-count", String(steps.length));
  const top = Math.max(2 * p90, 1e-3);
  const styles = getComputedStyle(document.documentElement);
  context.fillStyle = styles.getPropertyValue("--accent");
  const wide = width / SHOWN_STEPS;
  steps.forEach((step, index) => {
    const high = height * Math.min(step / top, 1);
    context.fillRect((SHOWN_STEPS - steps.length + index) * wide, height - high, Math.max(wide - 1, 1), high);
  });
  context.fillStyle = styles.getPropertyValue("--ink");
  for (const value of [p50, p90]) context.fillRect(0, height * (1 - value / top), width, 1);
}

function row(parts) {
  const item = document.createElement("li");
  item.append(...parts);
  return item;
}

function span(text) {
  const node = document.createElement("span");
  node.textContent = text;
  return node;
}

function listLabels(now) {
  const newest = [...segments.values()].slice(-SHOWN_LABELS).reverse();
  element("labels").replaceChildren(...newest.map(({ label, start, end }) => {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    mark.style.background = colour(label);
    mark.setAttribute("aria-hidden", "true");
    return row([mark, span(label), span(`for ${(end - start).toFixed(1)} s, ${duration(now - start)} ago`)]);
  }));
}

function listTop(top) {
  element("top").replaceChildren(...top.map(([label, share]) => {
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.style.width = `${100 * share}%`;
    return row([bar, span(label), span(percent(share))]);
  }));
}

function listFacts(view) {
  const machine = view.machine;
  const reasons = Object.entries(view.reset_reasons).map(([reason, count]) => `${reason} ${count}`).join(", ");
  const facts = [
    ["Running for", duration(view.running_s)],
    ["Frames", String(view.frames)],
    ["Frames dropped", String(view.dropped)],
    ["Cache resets", reasons ? `${view.resets} (${reasons})` : String(view.resets)],
  ];
  if (machine.hottest_c !== null) facts.push([`Temperature (${machine.hottest})`, `${machine.hottest_c.toFixed(1)} °C`]);
  if (machine.cpu_mhz !== null) facts.push(["CPU clock", `${Math.round(machine.cpu_mhz)} MHz`]);
  if (machine.gpu_mhz !== null) facts.push(["GPU clock", `${Math.round(machine.gpu_mhz)} MHz`]);
  if (machine.power_w !== null) facts.push([`Power (${machine.power_covers})`, `${machine.power_w.toFixed(2)} W`]);
  for (const { name, delivered, waiting: queued, lost, trouble } of view.receivers) {
    const why = trouble ? `: ${trouble}` : "";
    facts.push([RECEIVERS[name] ?? name, `${delivered} done, ${queued} waiting, ${lost} lost${why}`]);
  }
  facts.push(["Viewers", String(view.viewers)]);
  element("facts").replaceChildren(...facts.flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    term.textContent = name;
    text.textContent = value;
    const pair = document.createElement("div");
    pair.append(term, text);
    return [pair];
  }));
}

function speak(view, silent) {
  const news = silent ? "no frame arrives" : view.label;
  if (!news || performance.now() - spokenAt < SPEAK_MS || element("spoken").dataset.news === news) return;
  spokenAt = performance.now();
  element("spoken").dataset.news = news;
  element("spoken").textContent = silent ? news : `${news}, ${percent(view.probability)}`;
}

function remember(view, now) {
  steps.push(...view.steps);
  steps.splice(0, Math.max(steps.length - SHOWN_STEPS, 0));
  for (const [number, label, startAgo, endAgo] of view.segments) {
    segments.set(number, { label, start: now - startAgo, end: now - endAgo });
  }
  for (const [number, { end }] of segments) {
    if (end < now - HISTORY_S || segments.size > KEPT_SEGMENTS) segments.delete(number);
  }
}

function show(view) {
  const now = performance.now() / 1000;
  remember(view, now);
  const silent = view.age_s > SILENT_S;
  element("silence").hidden = !silent;
  if (silent) setText("silence", `no frame for ${duration(view.age_s)}`);
  if (paused) return;
  setText("label", view.label || "no prediction yet");
  setText("probability", view.label ? percent(view.probability) : "");
  speak(view, silent);
  listTop(view.top);
  drawTimeline(now);
  drawSteps();
  if (performance.now() - listedAt > LIST_MS) {
    listedAt = performance.now();
    listLabels(now);
    listFacts(view);
  }
}

async function draw(data) {
  const bitmap = await createImageBitmap(new Blob([data], { type: "image/jpeg" }));
  if (!paused) {
    const canvas = element("picture");
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
    }
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    canvas.setAttribute("aria-label", `Live picture: ${element("label").textContent}`);
  }
  bitmap.close();
}

// Browsers do not draw what is out of sight, and need not be sent it.
function drawn() {
  return new Promise((resolve) => requestAnimationFrame(resolve));
}

function introduce({ model, source, random_weights: random }) {
  setText("model", model);
  setText("source", source);
  element("random").hidden = !random;
  document.title = `${model} – tsm-edge`;
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/live`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    retryMs = 500;
    steps.length = 0;
    segments.clear();
    element("link").className = "";
    setText("link", "live");
  };
  socket.onmessage = async ({ data }) => {
    if (typeof data === "string") {
      const view = JSON.parse(data);
      if (view.about) {
        introduce(view.about);
        return;
      }
      show(view);
      if (view.picture_follows) return;
    } else {
      await draw(data).catch(() => {}); // one picture that is damaged does not end the rest
    }
    await drawn();
    if (socket.readyState === WebSocket.OPEN) socket.send("1");
  };
  socket.onclose = () => {
    element("link").className = "lost";
    setText("link", "connection lost, trying again");
    setTimeout(connect, retryMs);
    retryMs = Math.min(2 * retryMs, 10000);
  };
}

function togglePause() {
  paused = !paused;
  element("pause").setAttribute("aria-pressed", String(paused));
}

element("pause").addEventListener("click", togglePause);
connect();
