"use strict";
// The query is a file or a row of the index, perhaps a box of it, or others of the same thing beside
// it; the server keeps no state.
const MOST_BYTES = 20000000;
const MOST_PHOTOS = 8;
const at = (id) => document.getElementById(id);
const state = { file: null, row: null, name: "", box: null, others: [], past: [], number: 0, link: "" };

function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") node.className = value;
    else if (name === "click") node.addEventListener("click", value);
    else node.setAttribute(name, value);
  }
  node.append(...children); // strings become text nodes: names are never HTML
  return node;
}

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("wrong", wrong);
}

function parameters(extra = {}) {
  const asked = new URLSearchParams({ k: at("k").value, ...extra });
  if (at("where").value.trim()) asked.set("where", at("where").value);
  if (at("group").value) asked.set("group", at("group").value);
  if (state.box) asked.set("box", state.box.join(","));
  if (words()) asked.set("text", words());
  if (!at("mix").hidden) asked.set("weight", (1 - at("weight").value).toFixed(1));
  return asked;
}

// What is typed, beside a photo or alone.
function words() {
  return at("words").hidden ? "" : at("text").value.trim();
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; is it still running?");
  }
  if (response.ok) return response;
  let message = `error ${response.status}`;
  try {
    message = (await response.json()).error;
  } catch { /* not ours */ }
  throw new Error(message);
}

function send() {
  if (!state.file && state.row === null) return ask(`/words?${parameters()}`);
  const photos = [state, ...state.others];
  const files = photos.filter((one) => one.file).map((one) => one.file);
  const rows = photos.filter((one) => !one.file).map((one) => one.row);
  if (!files.length) {
    const others = rows.length > 1 ? { rows: rows.slice(1).join(",") } : {};
    return ask(`/like?${parameters({ row: rows[0], ...others })}`);
  }
  const extra = { sizes: files.map((file) => file.size).join(",") };
  if (rows.length) extra.rows = rows.join(",");
  return ask(`/search?${parameters(extra)}`, { method: "POST", body: new Blob(files) });
}

async function search() {
  if (!state.file && state.row === null && !words()) return;
  const number = ++state.number;
  say("searching …");
  try {
    const response = await send();
    const answer = await response.json();
    if (number === state.number) show(answer);
  } catch (error) {
    if (number === state.number) {
      at("hits").replaceChildren();
      say(error.message, true);
    }
  }
}

function show(answer) {
  const proof = answer.proven ? "exact" : `approximate (recall ${answer.recall.toFixed(2)})`;
  const count = answer.hits.length;
  say(count
    ? `${count} of ${answer.searched.toLocaleString("en")} photos, ${proof}, ${answer.seconds.toFixed(2)} s`
    : "no photo passes the filters");
  at("hits").replaceChildren(...answer.hits.map(card));
}

function card(hit) {
  const picture = make("img", { src: `/photo?row=${hit.row}`, alt: hit.name, loading: "lazy" });
  const values = Object.entries(hit.values).filter(([, value]) => value !== "");
  const facts = make("div", { class: "facts" },
    make("span", { class: "score", title: words() ? "score; the order counts" : "cosine: 1.000 is the same file" }, hit.score.toFixed(3)),
    make("span", { class: "name" }, hit.name),
    make("p", { class: "values" }, values.map(([name, value]) => `${name} ${value}`).join(" · ")));
  const more = () => like(hit);
  const why = () => explain(hit);
  const open = make("button", { class: "picture", type: "button", click: more, "aria-label": `More like ${hit.name}` }, picture);
  open.addEventListener("keydown", (event) => {
    if (event.key === "w" || event.key === "W") { event.preventDefault(); event.stopPropagation(); why(); }
  });
  return make("li", { class: "hit" }, open, facts, make("div", { class: "acts" },
    make("button", { type: "button", click: more }, "More like this"),
    make("button", { type: "button", click: () => add([{ file: null, row: hit.row, name: hit.name }]), title: "Search with both photos: this one shows the same thing" }, "Same thing"),
    make("button", { type: "button", click: why }, "Why this one")));
}

function remember() {
  if (state.file || state.row !== null) state.past.push({ file: state.file, row: state.row, name: state.name, others: state.others });
}

function like(hit) {
  remember();
  at("text").value = ""; // by the looks of this photo alone
  at("weight").value = 0;
  present({ file: null, row: hit.row, name: hit.name });
}

function fits(file) {
  if (!file.type.startsWith("image/")) say(`${file.name || "this"} is not an image`, true);
  else if (file.size > MOST_BYTES) say(`${file.name} is larger than ${MOST_BYTES / 1e6} MB`, true);
  else return true;
  return false;
}

function take(file) {
  if (!file || !fits(file)) return;
  remember();
  present({ file, row: null, name: file.name || "pasted photo" });
}

// Photos of the same thing: the mean of all is looked for.
function add(photos) {
  const known = [state, ...state.others];
  const fresh = photos.filter((one) => one.file || !known.some((old) => !old.file && old.row === one.row));
  if (!fresh.length) return;
  if (known.length + fresh.length > MOST_PHOTOS) return say(`at most ${MOST_PHOTOS} photos of one thing`, true);
  const bytes = [...known, ...fresh].reduce((sum, one) => sum + (one.file ? one.file.size : 0), 0);
  if (bytes > MOST_BYTES) return say(`all photos together may have ${MOST_BYTES / 1e6} MB`, true);
  remember();
  state.others = [...state.others, ...fresh];
  state.box = null;
  drawBox(null);
  showOthers();
  search();
}

function showOthers() {
  for (const old of document.querySelectorAll("#others img")) if (old.src.startsWith("blob:")) URL.revokeObjectURL(old.src);
  at("others").hidden = !state.others.length;
  at("hint").hidden = !state.file || state.others.length > 0;
  at("others").replaceChildren(...state.others.map((one, place) => {
    const drop = () => {
      state.others = state.others.filter((_, other) => other !== place);
      showOthers();
      search();
    };
    const source = one.file ? URL.createObjectURL(one.file) : `/photo?row=${one.row}`;
    return make("li", {}, make("img", { src: source, alt: one.name }),
      make("button", { type: "button", click: drop, "aria-label": `Without ${one.name}`, title: "Without this photo" }, "×"));
  }));
}

function present(query) {
  Object.assign(state, { others: [] }, query, { box: null });
  if (state.link) URL.revokeObjectURL(state.link);
  state.link = state.file ? URL.createObjectURL(state.file) : "";
  at("preview").src = state.link || `/photo?large=1&row=${state.row}`;
  at("preview").alt = state.name;
  at("stage").classList.replace("empty", "full");
  at("invite").hidden = true;
  at("frame").hidden = false;
  at("another").hidden = false;
  showOthers();
  drawBox(null);
  search();
  if (matchMedia("(max-width: 760px)").matches) at("found").scrollIntoView({ behavior: "smooth" });
}

async function explain(hit) {
  at("why").removeAttribute("src");
  at("dialog-text").textContent = "comparing …";
  at("dialog").showModal();
  try {
    const asked = parameters({ row: hit.row });
    const response = state.file
      ? await ask(`/why?${asked}`, { method: "POST", body: state.file })
      : await ask(`/why?${parameters({ row: hit.row, query: state.row })}`);
    at("why").src = URL.createObjectURL(await response.blob());
    at("dialog-text").textContent = `Left: what you look for. Right: ${hit.name}. Bright parts have their like on the other photo.`;
  } catch (error) {
    at("dialog-text").textContent = error.message;
  }
}

// A box on the photo, in pixels of the file.
let start = null;
function place(event) {
  const frame = at("preview").getBoundingClientRect();
  const inside = (value, size) => Math.min(Math.max(value, 0), size);
  return [inside(event.clientX - frame.left, frame.width), inside(event.clientY - frame.top, frame.height), frame];
}

function drawBox(edges) {
  at("box").hidden = !edges;
  at("whole").hidden = !state.box;
  if (!edges) return;
  const [left, top, right, bottom] = edges;
  Object.assign(at("box").style, { left: `${left}px`, top: `${top}px`, width: `${right - left}px`, height: `${bottom - top}px` });
}

function corners(event) {
  const [x, y, frame] = place(event);
  return [Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1]), frame];
}

at("frame").addEventListener("pointerdown", (event) => {
  if (!state.file || state.others.length || event.button !== 0) return;
  event.preventDefault();
  at("frame").setPointerCapture(event.pointerId);
  start = place(event);
});
at("frame").addEventListener("pointermove", (event) => { if (start) drawBox(corners(event)); });
at("frame").addEventListener("pointerup", (event) => {
  if (!start) return;
  const [left, top, right, bottom, frame] = corners(event);
  start = null;
  if (right - left < 8 || bottom - top < 8) return whole();
  const scale = at("preview").naturalWidth / frame.width;
  state.box = [Math.floor(left * scale), Math.floor(top * scale), Math.floor(right * scale), Math.floor(bottom * scale)];
  drawBox([left, top, right, bottom]);
  search();
});
at("frame").addEventListener("pointercancel", () => { start = null; });

function whole() {
  const had = state.box !== null;
  state.box = null;
  drawBox(null);
  if (had) search();
}

// Choose, photograph, drop, paste.
at("choose").addEventListener("click", () => at("file").click());
at("another").addEventListener("click", () => at("more").click());
at("more").addEventListener("change", (event) => {
  const files = [...event.target.files];
  if (files.every(fits)) add(files.map((file) => ({ file, row: null, name: file.name })));
  event.target.value = "";
});
at("camera").addEventListener("click", () => at("shot").click());
at("whole").addEventListener("click", whole);
at("apply").addEventListener("click", search);
at("words").addEventListener("submit", (event) => { event.preventDefault(); search(); });
at("weight").addEventListener("change", search);
for (const id of ["group", "k"]) at(id).addEventListener("change", search);
for (const id of ["file", "shot"]) {
  at(id).addEventListener("change", (event) => { take(event.target.files[0]); event.target.value = ""; });
}
at("stage").addEventListener("click", () => { if (at("stage").classList.contains("empty")) at("file").click(); });
at("stage").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") { event.preventDefault(); at("file").click(); }
});
document.addEventListener("dragover", (event) => { event.preventDefault(); at("stage").classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("stage").classList.remove("over"); });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("stage").classList.remove("over");
  take(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) { event.preventDefault(); take(file); }
});
at("close").addEventListener("click", () => at("dialog").close());

// Keys.
function move(event) {
  const all = [...document.querySelectorAll(".picture")];
  if (!all.length) return;
  const now = all.indexOf(document.activeElement);
  const top = all[0].getBoundingClientRect().top;
  const columns = all.filter((one) => Math.abs(one.getBoundingClientRect().top - top) < 4).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  const next = now < 0 ? 0 : Math.min(Math.max(now + steps[event.key], 0), all.length - 1);
  event.preventDefault();
  all[next].focus();
}

document.addEventListener("keydown", (event) => {
  const typing = ["TEXTAREA", "SELECT", "INPUT"].includes(event.target.tagName);
  if (event.target === at("where") && event.key === "Enter" && !event.shiftKey) { event.preventDefault(); search(); return; }
  if (at("dialog").open || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (typing) event.target.blur();
    else if (state.box) whole();
    else if (state.past.length) present(state.past.pop());
  } else if (typing) {
    return;
  } else if (event.key.startsWith("Arrow")) {
    move(event);
  } else if (event.key === "o" || event.key === "O") {
    at("file").click();
  } else if ((event.key === "a" || event.key === "A") && !at("another").hidden) {
    at("more").click();
  } else if ((event.key === "t" || event.key === "T") && !at("words").hidden) {
    event.preventDefault();
    at("text").focus();
  } else if (event.key === "/") {
    event.preventDefault();
    at("narrow").open = true;
    at("where").focus();
  }
});

ask("/info").then((response) => response.json()).then((info) => {
  at("about").textContent = `${info.photos.toLocaleString("en")} photos`;
  at("words").hidden = !info.texts && info.models < 2;
  at("text").parentElement.hidden = !info.texts;
  at("mix").hidden = info.models < 2;
  at("columns").textContent = `columns: ${info.columns.join(", ")}`;
  for (const name of info.columns.slice(1)) at("group").append(make("option", { value: name }, name));
}).catch((error) => say(error.message, true));
