"use strict";
const $ = id => document.getElementById(id);
const DATA = JSON.parse($("data").textContent);
const [L, H, T, S] = [DATA.layers.length, DATA.heads.length, DATA.queries.length, DATA.keys.length];
const BYTES = Uint8Array.from(atob(DATA.weights), letter => letter.charCodeAt(0));
const MASKED = 255;
const LONG = T > 26 || S > 26, HUGE = T > 120 || S > 120;
const state = { layer: DATA.start[0], head: DATA.start[1], query: -1, key: -1, pinned: false };

// ---- numbers: a view is a layer and a head; L and H stand for the averages

const views = new Map();
function view(layer, head) {
  const name = layer * (H + 1) + head;
  if (!views.has(name)) views.set(name, computeView(layer, head));
  return views.get(name);
}
function computeView(layer, head) {
  const weights = new Float32Array(T * S), hidden = new Uint8Array(T * S).fill(1);
  const layers = layer < L ? [layer] : [...Array(L).keys()], heads = head < H ? [head] : [...Array(H).keys()];
  const share = 1 / (layers.length * heads.length);
  for (const l of layers) for (const h of heads) {
    const base = (l * H + h) * T * S;
    for (let i = 0; i < T * S; i++) {
      const code = BYTES[base + i];
      if (code === MASKED) continue;
      hidden[i] = 0;
      weights[i] += (code / 254) ** 2 * share;
    }
  }
  return { weights, hidden };
}
const current = () => view(state.layer, state.head);
const percent = w => w >= .995 ? "100 %" : w >= .095 ? Math.round(w * 100) + " %" : w < .0005 ? "0 %" : (w * 100).toFixed(1) + " %";
const titled = (name, kind) => /^\d+$/.test(name) ? `${kind} ${name}` : name;
const named = (names, kind, i) => i < names.length ? titled(names[i], kind) : `average of ${names.length} ${kind}s`;

// ---- colors

let ramp = [];
function readColors() {
  const style = getComputedStyle(document.documentElement);
  const rgb = name => style.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map(x => parseInt(x, 16));
  const [low, middle, high] = [rgb("--ramp-low"), rgb("--ramp-middle"), rgb("--ramp-high")];
  const mix = (a, b, t) => a.map((x, i) => Math.round(x + (b[i] - x) * t));
  ramp = Array.from({ length: 256 }, (_, i) => i < 128 ? mix(low, middle, i / 127) : mix(middle, high, (i - 128) / 127));
  const packed = ([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;
  ramp.packed = Uint32Array.from(ramp, packed);
  ramp.hatch = packed(rgb("--hatch"));
  for (const name of ["ink", "soft", "accent", "panel", "hatch"]) ramp["css_" + name] = style.getPropertyValue("--" + name);
}
const shade = w => ramp.packed[Math.round(255 * Math.min(1, w) ** .6)];

// ---- the sentences

function fillSentence(box, words, axis) {
  box.dir = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/.test(words.join("")) ? "rtl" : "ltr";
  words.forEach((word, i) => {
    const button = document.createElement("button");
    button.className = /^(<[^<>]+>|\[[A-Z]+\])$/.test(word) ? "word special" : "word";
    button.dir = "auto";
    button.textContent = readable(word);
    button.addEventListener("pointerenter", () => point(axis, i));
    button.addEventListener("focus", () => point(axis, i));
    button.addEventListener("click", () => pin(axis, i));
    box.append(button);
  });
  box.addEventListener("pointerleave", release);
}
const readable = word => word.trim() === "" ? (word.includes("\n") ? "⏎" : "␣") : word.replace(/\n/g, "⏎");

function point(axis, i) {
  if (state.pinned) return;
  choose(axis === "query" ? i : -1, axis === "key" ? i : -1);
}
function pin(axis, i) { pinPair(axis === "query" ? i : -1, axis === "key" ? i : -1); }
function pinPair(query, key) {
  const same = state.pinned && query === state.query && key === state.key;
  state.pinned = !same && (query >= 0 || key >= 0);
  choose(query, key, true);
  remember();
}
function release() { if (!state.pinned) choose(-1, -1); }
function choose(query, key, redraw) {
  if (query === state.query && key === state.key && !redraw) return;
  state.query = query; state.key = key;
  drawSentences(); drawMap();
}

function drawSentences() {
  const { weights } = current(), { query, key } = state;
  const paint = (box, axis, share) => [...box.children].forEach((button, i) => {
    const w = share(i), chosen = state[axis] === i;
    button.style.backgroundColor = w > .004 && !chosen ? `rgba(var(--wash), ${(Math.min(1, w) ** .6 * .62).toFixed(3)})` : "";
    button.classList.toggle("chosen", chosen);
    button.classList.toggle("pinned", chosen && state.pinned);
  });
  paint($("keys"), "key", k => query < 0 ? 0 : weights[query * S + k]);
  paint($("queries"), "query", q => key < 0 ? 0 : query < 0 ? weights[q * S + key] : 0);
  drawCurves();
  tell();
}

function drawCurves() {
  const svg = $("curves"), frame = $("sentences").getBoundingClientRect();
  svg.replaceChildren();
  const idle = state.query < 0 && state.key < 0;
  if (HUGE || (idle && LONG)) return;
  const { weights } = current();
  const spots = (box, edge) => [...box.children].map(button => {
    const r = button.getBoundingClientRect();
    return [r.left + r.width / 2 - frame.left, r[edge] - frame.top];
  });
  const from = spots($("queries"), "top"), to = spots($("keys"), "bottom");
  const floor = idle ? .08 : LONG ? .04 : .02;
  for (let q = 0; q < T; q++) {
    if (!idle && state.query >= 0 && q !== state.query) continue;
    for (let k = 0; k < S; k++) {
      const w = weights[q * S + k];
      if (w < floor || (!idle && state.key >= 0 && k !== state.key)) continue;
      const [x, y] = from[q], [u, v] = to[k], bend = (y - v) * .5;
      const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
      path.setAttribute("d", `M${x} ${y}C${x} ${y - bend} ${u} ${v + bend} ${u} ${v}`);
      path.style.strokeWidth = (.6 + 5.4 * w).toFixed(2);
      path.style.opacity = ((idle ? .55 : .9) * (.12 + .88 * w)).toFixed(3);
      svg.append(path);
    }
  }
}

function tell() {
  const { weights, hidden } = current(), { query, key } = state, box = $("reading");
  box.replaceChildren();
  const say = (text, strong) => {
    const part = document.createElement(strong ? "b" : "span");
    if (strong) part.dir = "auto";
    part.textContent = text;
    box.append(part);
  };
  if (query < 0 && key < 0) return say("Point at a word to see where it looks; click to keep it.");
  const list = (names, share, count) => {
    const top = [...Array(count).keys()].filter(i => share(i) >= .0005).sort((a, b) => share(b) - share(a)).slice(0, 5);
    top.forEach((i, n) => { say(n ? ",  " : " "); say(readable(names[i]), true); say(" " + percent(share(i))); });
  };
  if (query >= 0 && key >= 0) {
    const i = query * S + key;
    say(readable(DATA.queries[query]), true); say("  →  "); say(readable(DATA.keys[key]), true);
    return say(hidden[i] ? "  may not attend" : "  " + percent(weights[i]));
  }
  if (query < 0) {
    say(readable(DATA.keys[key]), true); say(" is looked at most by");
    return list(DATA.queries, q => weights[q * S + key], T);
  }
  const row = weights.subarray(query * S, (query + 1) * S);
  say(readable(DATA.queries[query]), true);
  if (!row.some(w => w > 0)) return say(" may look at nothing");
  say(" looks at"); list(DATA.keys, k => row[k], S);
  const spread = Math.exp(-row.reduce((sum, w) => sum + (w > 0 ? w * Math.log(w) : 0), 0));
  say(`  ·  spread as over ${spread.toFixed(1)} words`);
}

// ---- the map

const canvas = document.querySelector("#map canvas"), map = {};
function pixels(layer, head) {
  const { weights, hidden } = view(layer, head), image = new ImageData(S, T), cells = new Uint32Array(image.data.buffer);
  for (let i = 0; i < T * S; i++) cells[i] = hidden[i] ? ramp.hatch : shade(weights[i]);
  const tile = blank(S, T);
  tile.getContext("2d").putImageData(image, 0, 0);
  return tile;
}
function blank(width, height) {
  const sheet = document.createElement("canvas");
  sheet.width = width; sheet.height = height;
  return sheet;
}

function measureMap() {
  const context = canvas.getContext("2d"), space = $("panes").clientWidth - ($("overviewPane").hidden ? 0 : $("overviewPane").offsetWidth + 28) - 40;
  map.font = getComputedStyle(document.body).fontFamily;
  context.font = `14px ${map.font}`;
  const widest = words => Math.min(150, Math.max(20, ...words.slice(0, 2000).map(word => context.measureText(readable(word)).width)));
  map.left = widest(DATA.queries) + 12;
  map.cell = Math.max(2, Math.min(38, Math.floor((Math.max(space, 300) - map.left - 30) / S)));
  map.slanted = map.cell >= 22;
  map.top = map.slanted ? widest(DATA.keys) * .72 + 20 : widest(DATA.keys) + 12;
  map.width = map.left + map.cell * S + (map.slanted ? 60 : 6);
  map.height = map.top + map.cell * T + 4;
  $("percent").hidden = map.cell < 30;
  map.base = null;
}

function drawMap() {
  const scale = window.devicePixelRatio || 1, { cell, left, top } = map, { query, key } = state;
  map.base ??= drawCells(scale);
  canvas.width = map.width * scale; canvas.height = map.height * scale;
  canvas.style.width = map.width + "px"; canvas.style.height = map.height + "px";
  const c = canvas.getContext("2d");
  c.scale(scale, scale);
  c.drawImage(map.base, left, top, S * cell, T * cell);
  c.strokeStyle = ramp.css_soft; c.lineWidth = 1;
  c.strokeRect(left - .5, top - .5, S * cell + 1, T * cell + 1);
  c.strokeStyle = ramp.css_accent; c.lineWidth = 2;
  if (query >= 0) c.strokeRect(left - 1, top + query * cell - 1, S * cell + 2, cell + 2);
  if (key >= 0) c.strokeRect(left + key * cell - 1, top - 1, cell + 2, T * cell + 2);
  drawLabels(c);
}

function drawCells(scale) {  // what a moving pointer does not change
  const { cell } = map, { weights, hidden } = current(), sheet = blank(S * cell * scale, T * cell * scale);
  const c = sheet.getContext("2d"), x = i => (i % S) * cell, y = i => Math.floor(i / S) * cell;
  c.scale(scale, scale);
  c.imageSmoothingEnabled = false;
  c.drawImage(pixels(state.layer, state.head), 0, 0, S * cell, T * cell);
  if (cell < 6) return sheet;
  c.beginPath();
  for (let i = 0; i < T * S; i++) if (hidden[i]) c.rect(x(i), y(i), cell, cell);
  c.fillStyle = ramp.css_panel; c.fill();
  c.fillStyle = c.createPattern(hatching(), "repeat"); c.fill();
  c.strokeStyle = ramp.css_panel; c.lineWidth = 1; c.beginPath();
  for (let k = 0; k <= S; k++) { c.moveTo(k * cell, 0); c.lineTo(k * cell, T * cell); }
  for (let q = 0; q <= T; q++) { c.moveTo(0, q * cell); c.lineTo(S * cell, q * cell); }
  c.stroke();
  if (cell < 30) return sheet;
  c.font = `12px ${map.font}`; c.textAlign = "center"; c.textBaseline = "middle";
  for (let i = 0; i < T * S; i++) {
    if (weights[i] < .095) continue;
    c.fillStyle = weights[i] > .42 ? ramp.css_panel : ramp.css_ink;
    c.fillText(Math.round(weights[i] * 100), x(i) + cell / 2, y(i) + cell / 2);
  }
  return sheet;
}
function hatching() {
  const sheet = blank(6, 6), c = sheet.getContext("2d");
  c.strokeStyle = ramp.css_hatch; c.lineWidth = 1.2; c.beginPath();
  for (const d of [-6, 0, 6]) { c.moveTo(d - 1, 7); c.lineTo(d + 7, -1); }
  c.stroke();
  return sheet;
}
function drawLabels(c) {
  const { cell, left, top } = map, size = Math.max(10, Math.min(14, cell * .75)), every = Math.ceil(13 / cell);
  const label = (i, chosen) => {
    c.font = `${chosen ? "600 " : ""}${size}px ${map.font}`; c.fillStyle = chosen ? ramp.css_accent : ramp.css_ink;
  };
  const near = (i, chosen) => chosen >= 0 && i !== chosen && Math.abs(i - chosen) < every;
  c.textBaseline = "middle";
  DATA.queries.forEach((word, q) => {
    if (q !== state.query && (q % every || near(q, state.query))) return;
    label(q, q === state.query); c.textAlign = "right";
    c.fillText(clipped(word), left - 8, top + (q + .5) * cell, map.left - 12);
  });
  DATA.keys.forEach((word, k) => {
    if (k !== state.key && (k % every || near(k, state.key))) return;
    label(k, k === state.key); c.textAlign = "left";
    c.save(); c.translate(left + (k + .5) * cell, top - 7); c.rotate(map.slanted ? -Math.PI / 4 : -Math.PI / 2);
    c.fillText(clipped(word), 0, 0); c.restore();
  });
}
const clipped = word => { const letters = [...readable(word)]; return letters.length > 18 ? letters.slice(0, 17).join("") + "…" : letters.join(""); };

function cellAt(event) {
  const frame = canvas.getBoundingClientRect();
  const key = Math.floor((event.clientX - frame.left - map.left) / map.cell), query = Math.floor((event.clientY - frame.top - map.top) / map.cell);
  const inColumns = key >= 0 && key < S, inRows = query >= 0 && query < T;
  if (inColumns && inRows) return [query, key];
  if (inRows && key < 0) return [query, -1];
  if (inColumns && query < 0) return [-1, key];
  return [-1, -1];
}
canvas.addEventListener("pointermove", event => { if (!state.pinned) choose(...cellAt(event)); });
canvas.addEventListener("pointerleave", release);
canvas.addEventListener("click", event => pinPair(...cellAt(event)));

// ---- the overview

const thumbs = [];
function buildOverview() {
  const box = $("overview"), rows = L > 1 ? L + 1 : 1, columns = H > 1 ? H + 1 : 1;
  if (rows * columns === 1) { $("overviewPane").hidden = true; return; }
  const side = Math.max(22, Math.min(64, Math.floor(300 / columns)));
  const stretch = Math.sqrt(Math.min(3, Math.max(1 / 3, T / S)));
  const [width, height] = [Math.round(side / stretch), Math.round(side * stretch)];
  box.style.gridTemplateColumns = `auto repeat(${columns}, auto)`;
  const note = text => { const span = document.createElement("span"); span.className = "soft"; span.textContent = text; box.append(span); };
  note(columns > 1 ? "head" : "");
  for (let h = 0; h < columns; h++) note(h === H || columns === 1 ? "average" : DATA.heads[h]);
  for (let l = 0; l < rows; l++) {
    note(l === L ? "average" : rows > 1 ? titled(DATA.layers[l], "layer") : "");
    for (let h = 0; h < columns; h++) {
      const [layer, head] = [rows > 1 ? l : 0, columns > 1 ? h : 0];
      const button = document.createElement("button"), picture = document.createElement("canvas");
      button.setAttribute("aria-label", `${named(DATA.layers, "layer", layer)}, ${named(DATA.heads, "head", head)}`);
      button.addEventListener("click", () => show(layer, head));
      picture.style.width = width + "px"; picture.style.height = height + "px";
      picture.width = width * 2; picture.height = height * 2;
      button.append(picture); box.append(button);
      thumbs.push({ layer, head, button, picture });
    }
  }
}
function drawThumbs() {
  for (const { layer, head, picture } of thumbs) {
    const c = picture.getContext("2d");
    c.imageSmoothingEnabled = S > picture.width || T > picture.height;
    c.imageSmoothingQuality = "high";
    c.drawImage(pixels(layer, head), 0, 0, picture.width, picture.height);
  }
}

function show(layer, head) {
  state.layer = layer; state.head = head; map.base = null;
  for (const thumb of thumbs) thumb.button.setAttribute("aria-pressed", thumb.layer === layer && thumb.head === head);
  const parts = [L > 1 ? named(DATA.layers, "layer", layer) : "", H > 1 ? named(DATA.heads, "head", head) : ""].filter(Boolean);
  const text = parts.join(", ") || `${DATA.queryName} by ${DATA.keyName}`;
  $("view").textContent = text[0].toUpperCase() + text.slice(1);
  canvas.setAttribute("aria-label", `Attention weights, ${text}`);
  drawSentences(); drawMap(); remember();
}
function step(name, count, by) {
  const next = { layer: state.layer, head: state.head };
  next[name] = (next[name] + by + count + 1) % (count + 1);
  show(next.layer, next.head);
}
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = {
    a: () => show(L > 1 ? L : 0, H > 1 ? H : 0),
    Escape: () => { state.pinned = false; choose(-1, -1, true); remember(); },
  };
  if (H > 1) { actions.ArrowLeft = () => step("head", H, -1); actions.ArrowRight = () => step("head", H, 1); }
  if (L > 1) { actions.ArrowUp = () => step("layer", L, -1); actions.ArrowDown = () => step("layer", L, 1); }
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
});

// ---- a link restores the view

function remember() {
  const place = [state.layer, state.head, ...(state.pinned ? [state.query, state.key] : [])].join(".");
  try { history.replaceState(null, "", "#" + place); } catch { /* a sandboxed frame has no history */ }
}
function recall() {
  const [layer, head, query, key] = location.hash.slice(1).split(".").map(Number);
  if (layer >= 0 && layer <= L && head >= 0 && head <= H) { state.layer = layer; state.head = head; }
  if (query >= -1 && query < T && key >= -1 && key < S) Object.assign(state, { query, key, pinned: query >= 0 || key >= 0 });
}

function start() {
  document.querySelector("h1").textContent = DATA.title;
  const counted = (n, word) => n + " " + word + (n === 1 ? "" : "s");
  $("size").textContent = `${counted(L, "layer")} · ${counted(H, "head")} · ${T * DATA.queryGroup > T ? "about " : ""}${T * DATA.queryGroup} × ${S * DATA.keyGroup}`;
  for (const [id, name] of [["queryName", DATA.queryName], ["keyName", DATA.keyName]]) $(id).textContent = name;
  document.querySelector(".q").textContent = DATA.queryName; document.querySelector(".k").textContent = DATA.keyName;
  $("hidden").hidden = !BYTES.includes(MASKED);
  const pooled = [[DATA.queryGroup, "rows"], [DATA.keyGroup, "columns"]].filter(([n]) => n > 1);
  $("pooled").textContent = pooled.map(([n, what]) => `${n} neighbours are pooled into one of the ${what}`).join("; ");
  document.body.classList.toggle("long", LONG);
  document.body.classList.toggle("huge", HUGE);
  $("sentences").style.setProperty("--gap", LONG ? "56px" : "104px");
  fillSentence($("keys"), DATA.keys, "key"); fillSentence($("queries"), DATA.queries, "query");
  if (L === 1) state.layer = 0;
  if (H === 1) state.head = 0;
  recall(); readColors(); buildOverview(); drawThumbs(); measureMap(); show(state.layer, state.head);
}
start();
addEventListener("resize", () => { measureMap(); drawMap(); drawCurves(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColors(); drawThumbs(); show(state.layer, state.head); });
