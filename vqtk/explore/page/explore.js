// The page of `vqtk explore`. The server only computes; everything the page shows follows from `state`.

const $ = (id) => document.getElementById(id);
const MOST_FILE_BYTES = 32 << 20, MOST_FILE_PIXELS = 1 << 26;
const SHORT_CODE = 20; // Stages whose options fit below a thumbnail.
const FILE_TYPES = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/avif"];

let model; // What /api/model says: name, stages, options, channels, height, width, loss.
const state = {
  codes: [], // The code, or the prefix that has been chosen so far.
  at: 1, // The selected stage, from 1; the one after the prefix if the next option is to be chosen.
  image: null, // Your image in base64; null while there is none.
  target: null, // The image that losses are measured by: yours, unless a part of it is hidden.
  along: null, // Its reconstructions before the first and after every stage: bytes and losses.
  seed: 0, // Of the completions.
  change: null, // {codes, along, stage} before the last swap.
};

// ── questions to the server ────────────────────────────────────────────────────────────────────

async function ask(path, question) {
  const options = question && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question) };
  let response, answer;
  try {
    response = await fetch(`api/${path}`, options);
    answer = await response.json();
  } catch {
    throw new Error("The server does not answer. Is `vqtk explore` still running?");
  }
  if (!response.ok) throw new Error(answer.error);
  if (answer.images !== undefined) answer.images = toBytes(answer.images);
  return answer;
}

// A pen or a slider asks faster than a model answers. Of the questions that wait for the one being answered, only the
// newest is asked.
function newestOnly(work) {
  let running = false, waiting = null;
  return async (...given) => {
    waiting = given;
    if (running) return;
    running = true;
    while (waiting) {
      const now = waiting;
      waiting = null;
      try {
        await work(...now);
      } catch (error) {
        say(error.message);
      }
    }
    running = false;
  };
}

function say(text) {
  $("notice").firstChild.textContent = text;
  $("notice").hidden = !text;
}

// ── bytes and pixels ───────────────────────────────────────────────────────────────────────────

const toBytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

function toBase64(bytes) {
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192) text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  return btoa(text);
}

const sizeOfImage = () => model.channels * model.height * model.width;
const imageOf = (bytes, index) => bytes.subarray(index * sizeOfImage(), (index + 1) * sizeOfImage());

function canvasOf(bytes, canvas = document.createElement("canvas")) {
  Object.assign(canvas, { width: model.width, height: model.height });
  const pixels = new ImageData(model.width, model.height);
  for (let i = 0; i < model.width * model.height; i++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = bytes[model.channels === 1 ? i : 3 * i + c];
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// The change of a pixel's brightness, the mean of its channels, from -1 to 1.
function changeOf(before, after, pixel) {
  let sum = 0;
  for (let i = model.channels * pixel; i < model.channels * (pixel + 1); i++) sum += after[i] - before[i];
  return sum / model.channels / 255;
}

// The largest absolute change of a pixel's brightness among pairs of images, from 0 to 1.
function largestChange(pairs) {
  let most = 4 / 255; // Less than that is rounding, and stays dark.
  for (const [before, after] of pairs)
    for (let i = 0; i < model.width * model.height; i++) most = Math.max(most, Math.abs(changeOf(before, after, i)));
  return most;
}

// Brighter than before is orange, darker is blue, in both colour schemes; `most` is drawn brightest.
function canvasOfDifference(before, after, most) {
  const canvas = Object.assign(document.createElement("canvas"), { width: model.width, height: model.height });
  const pixels = new ImageData(model.width, model.height);
  for (let i = 0; i < model.width * model.height; i++) {
    const share = changeOf(before, after, i), strength = Math.min(1, Math.abs(share) / most);
    const colour = share > 0 ? [240, 138, 82] : [91, 155, 230];
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = colour[c] * strength;
    pixels.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

function meanChange(before, after) {
  let sum = 0;
  for (let i = 0; i < before.length; i++) sum += Math.abs(after[i] - before[i]);
  return sum / before.length / 255;
}

// ── the code and its link ──────────────────────────────────────────────────────────────────────

function linkOf(codes) {
  return `#${new URLSearchParams({ model: model.name, code: codes.join(",") }).toString().replaceAll("%2C", ",").replaceAll("%2F", "/")}`;
}

function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  const words = (link.get("code") ?? "").split(",").filter((word) => word);
  const codes = words.map(Number);
  const wrong = codes.length > model.stages || codes.some((code, i) => !/^\d{1,5}$/.test(words[i]) || code >= model.options);
  if (link.has("model") && link.get("model") !== model.name)
    say(`This link is for the model ${link.get("model").slice(0, 80)}, and this page shows ${model.name}: the code may mean something else here.`);
  else if (wrong) say(`The code of this link does not fit: expected at most ${model.stages} options from 0 to ${model.options - 1}.`);
  setCodes(wrong ? [] : codes, { link: "keep" });
  // Of the page's own entries in the history, the user knows where they came from.
  $("origin").hidden = history.state !== null || !state.codes.length || state.image !== null;
}

// `link`: "push" lets the browser's Back button undo the change, "replace" does not, "keep" leaves the address alone.
function setCodes(codes, { at = codes.length, link = "push", change = null } = {}) {
  if (link !== "keep") {
    say("");
    $("origin").hidden = true;
  }
  state.codes = codes;
  state.at = Math.min(Math.max(at, 1), codes.length + 1, model.stages);
  state.change = change;
  if (link === "push") history.pushState("own", "", linkOf(codes));
  if (link === "replace") history.replaceState("own", "", linkOf(codes));
  showCode();
  showOptions();
  markCandidates();
}

function select(stage) {
  if (stage === state.at) return;
  state.at = stage;
  drawCode();
  showOptions();
}

// Choosing extends the code by a stage, or swaps an option in the middle of it.
function choose(option) {
  const index = state.at - 1, before = state.codes, keep = $("keep").checked;
  const later = before.length > state.at;
  if (before[index] === option && (keep || !later)) return select(Math.min(state.at + 1, model.stages));
  const codes = [...before.slice(0, index), option, ...(keep ? before.slice(state.at) : [])];
  const swapped = index < before.length && keep;
  const change = swapped ? { codes: before, along: state.along, stage: state.at, from: before[index], to: option } : null;
  setCodes(codes, { at: swapped ? state.at : state.at + 1, change });
}

const showCode = newestOnly(async () => {
  const codes = state.codes;
  const along = await ask("decode", { codes, image: state.target });
  if (codes !== state.codes) return;
  state.along = along;
  drawCode();
  drawChange();
});

function drawCode() {
  drawStrip();
  drawView();
  $("bits").textContent = `${count(state.codes.length * Math.log2(model.options))} of ${count(model.stages * Math.log2(model.options))} bits`;
  $("cut").disabled = state.at >= state.codes.length;
  $("empty").disabled = !state.codes.length;
}

const count = (number) => number.toLocaleString("en", { maximumFractionDigits: 1 });
const shown = (loss) => (loss === null ? "∞" : loss.toPrecision(3));
const lossText = (loss) => `${model.loss} ${shown(loss)}`;

// Chips are kept and redrawn, so that the strip neither loses the focus nor its place.
function drawStrip() {
  const strip = $("strip"), known = state.along ? state.along.images.length / sizeOfImage() - 1 : 0;
  while (strip.children.length < model.stages) {
    const chip = element("button", "chip"), item = element("li"), stage = strip.children.length + 1;
    chip.addEventListener("click", () => select(stage));
    item.append(chip);
    strip.append(item);
  }
  for (let stage = 1; stage <= model.stages; stage++) {
    const chip = strip.children[stage - 1].firstChild, code = state.codes[stage - 1];
    const label = element("small");
    label.append(element("span", "", stage), element("b", "", code ?? "–"));
    let picture;
    if (code !== undefined && stage <= known) picture = canvasOf(imageOf(state.along.images, stage));
    else {
      picture = element("div", "none", stage === state.codes.length + 1 ? "?" : "");
      picture.style.aspectRatio = `${model.width} / ${model.height}`;
    }
    chip.replaceChildren(picture, label);
    chip.disabled = stage > state.codes.length + 1;
    chip.title = code === undefined ? `Stage ${stage}: not chosen` : `Stage ${stage}: option ${code}`;
    chip.setAttribute("aria-current", stage === state.at);
    strip.children[stage - 1].classList.toggle("final", stage === state.codes.length && stage > state.at);
  }
  // Scroll within the strip only: `scrollIntoView` would also move the page.
  const current = strip.children[state.at - 1];
  strip.scrollTo({ left: current.offsetLeft - strip.offsetLeft - (strip.clientWidth - current.clientWidth) / 2, behavior: "smooth" });
}

function drawView() {
  const stage = Math.min(state.at, state.codes.length), slider = $("stage");
  slider.max = Math.min(state.codes.length + 1, model.stages);
  slider.value = state.at;
  slider.disabled = slider.max === "1";
  $("at").textContent = `${state.at} of ${model.stages}`;
  if (!state.along || (stage + 1) * sizeOfImage() > state.along.images.length) return;
  drawResult(imageOf(state.along.images, stage), stage, state.along.losses?.[stage], state.at > stage ? ` · choose an option of stage ${state.at}` : "");
}

// The caption names the stage that the picture is of, also for an option that is only looked at. A narrow page shows the
// picture a second time, small beside the stages, which stay in sight above the options.
function drawResult(pixels, stage, loss, note) {
  const after = stage ? `After ${stage} ${stage === 1 ? "stage" : "stages"}` : "Before the first stage";
  canvasOf(pixels, $("view"));
  canvasOf(pixels, $("glance"));
  $("loss").textContent = loss === undefined ? "" : lossText(loss);
  $("caption").textContent = `${after} · ${count(stage * Math.log2(model.options))} bits${note}`;
  $("glance-caption").textContent = loss === undefined ? after : `${after} · ${lossText(loss)}`;
}

// ── the options of a stage ─────────────────────────────────────────────────────────────────────

const showOptions = newestOnly(async (first = 0) => {
  const stage = state.at, prefix = state.codes.slice(0, stage - 1), grid = $("options");
  $("order").hidden = !state.target;
  $("keeping").hidden = stage >= state.codes.length;
  grid.setAttribute("aria-busy", "true");
  try {
    const order = state.target ? $("order").value : "option";
    const answer = await ask("options", { codes: prefix, image: state.target, order, first });
    drawOptions(answer, stage, prefix, first);
  } finally {
    grid.removeAttribute("aria-busy");
  }
});

function drawOptions(answer, stage, prefix, first) {
  const grid = $("options"), chosen = state.codes[stage - 1];
  // In late stages all options look alike: what they change tells them apart.
  const base = $("show").value === "change" ? toBytes(answer.start) : null;
  const most = base && largestChange(answer.options.map((_, i) => [base, imageOf(answer.images, i)]));
  const buttons = answer.options.map((option, i) => {
    const pixels = imageOf(answer.images, i), button = element("button", "option");
    button.append(base ? canvasOfDifference(base, pixels, most) : canvasOf(pixels), option);
    button.setAttribute("aria-pressed", option === chosen);
    button.classList.toggle("best", option === answer.best);
    button.title = `Option ${option}` + (answer.losses ? ` · ${lossText(answer.losses[i])}` : "");
    // A slow answer may still be on the page when the code has changed: its options are no longer those to choose.
    const current = () => stage === state.at && String(prefix) === String(state.codes.slice(0, stage - 1));
    button.addEventListener("click", () => current() && choose(option));
    const preview = () => {
      if (!current()) return;
      drawResult(pixels, stage, answer.losses?.[i], ` · option ${option}`);
    };
    button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && preview());
    button.addEventListener("focus", () => button.matches(":focus-visible") && preview());
    button.addEventListener("pointerleave", drawView);
    button.addEventListener("blur", drawView);
    return button;
  });
  // With a keyboard, the next choice starts where the last one was made.
  const focused = [...grid.children].indexOf(document.activeElement);
  if (first) grid.append(...buttons);
  else grid.replaceChildren(...buttons);
  if (!first) buttons[focused]?.focus({ preventScroll: true });
  $("more").hidden = grid.children.length >= model.options;
  $("choices-title").textContent = `Options of stage ${stage}`;
  const later = state.codes.length - stage;
  $("explain").textContent = chosen === undefined
    ? `Each of the ${model.options} options changes the image so far. Choose one to go on.`
    : `Option ${chosen} is chosen. Choose another to swap it` + (later > 0 ? `; ${later} later ${later === 1 ? "stage follows" : "stages follow"}.` : ".");
  if (base) $("explain").textContent += " Orange is brighter than before, blue is darker.";
}

function element(tag, className = "", text = "") {
  const made = Object.assign(document.createElement(tag), { className, textContent: text });
  if (tag === "button") made.type = "button";
  return made;
}

// ── what a swap changes ────────────────────────────────────────────────────────────────────────

function drawChange() {
  const change = state.change;
  $("change").hidden = !change;
  if (!change || !change.along) return;
  const last = state.codes.length, table = element("table"), head = element("tr"), body = element("tbody");
  const rows = [["before", change.along], ["after", state.along]].map(([name, along]) => [name, (stage) => canvasOf(imageOf(along.images, stage))]);
  const stages = Array.from({ length: last - change.stage + 1 }, (_, i) => change.stage + i);
  const pair = (stage) => [imageOf(change.along.images, stage), imageOf(state.along.images, stage)];
  const most = largestChange(stages.map(pair));
  rows.push(["difference", (stage) => canvasOfDifference(...pair(stage), most)]);
  head.append(element("th", "", "stage"));
  head.append(...stages.map((stage) => element("th", "", stage)));
  for (const [name, draw] of rows) {
    const row = element("tr");
    row.append(element("th", "", name));
    for (const stage of stages) {
      const cell = element("td");
      cell.append(draw(stage));
      row.append(cell);
    }
    body.append(row);
  }
  const top = element("thead");
  top.append(head);
  table.append(top, body);
  $("rows").replaceChildren(table);
  const pixels = meanChange(...pair(last));
  let text = `Stage ${change.stage}: option ${change.from} became ${change.to}. After stage ${last}, pixels differ by ${count(100 * pixels)} % on average`;
  if (state.along.losses && change.along.losses)
    text += `; ${model.loss} ${shown(change.along.losses[last])} → ${shown(state.along.losses[last])}`;
  $("change-explain").textContent = `${text}. Orange is brighter than before, blue is darker.`;
}

// ── your image ─────────────────────────────────────────────────────────────────────────────────

const ground = () => (model.channels === 1 ? "#000" : "#fff");
const context = (id) => $(id).getContext("2d", { willReadFrequently: true });
let tool = "draw";

function startPad() {
  for (const id of ["image", "mask"]) Object.assign($(id), { width: model.width, height: model.height });
  fill(ground());
  $("colour").hidden = model.channels === 1;
  $("pad").classList.toggle("white", model.channels !== 1);
  for (const button of document.querySelectorAll("[data-tool]"))
    button.addEventListener("click", () => {
      tool = button.dataset.tool;
      for (const other of document.querySelectorAll("[data-tool]")) other.setAttribute("aria-pressed", other === button);
    });
  const pad = $("pad");
  let last = null, finger = null; // A second finger, or a palm, draws nothing.
  pad.addEventListener("pointerdown", (event) => {
    if (event.button || last) return;
    finger = event.pointerId;
    pad.setPointerCapture(finger);
    last = stroke(null, event);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!last || event.pointerId !== finger) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) last = stroke(last, one);
    readPad({ drawing: true });
  });
  for (const end of ["pointerup", "pointercancel"])
    pad.addEventListener(end, (event) => {
      if (!last || event.pointerId !== finger) return;
      last = null;
      sharpenMask();
      readPad();
    });
}

// A pixel is hidden or not: what the pen left half covered at its edge is shown as what is sent.
function sharpenMask() {
  const pen = context("mask"), pixels = pen.getImageData(0, 0, model.width, model.height);
  for (let i = 3; i < pixels.data.length; i += 4) pixels.data[i] = pixels.data[i] >= 128 ? 255 : 0;
  pen.putImageData(pixels, 0, 0);
}

// The canvas has the model's own pixels: its antialiased strokes are grey at their edges, as scanned ones are.
function stroke(from, event) {
  const box = $("image").getBoundingClientRect();
  const to = { x: ((event.clientX - box.left) / box.width) * model.width, y: ((event.clientY - box.top) / box.height) * model.height };
  const masks = tool === "hide" || tool === "reveal", pen = context(masks ? "mask" : "image");
  const side = Math.min(model.width, model.height);
  pen.globalCompositeOperation = tool === "reveal" ? "destination-out" : "source-over";
  pen.strokeStyle = tool === "draw" ? (model.channels === 1 ? "#fff" : $("colour").value) : tool === "erase" ? ground() : hiddenColour();
  pen.lineWidth = (masks ? 3 : 1) * Math.max(1, side * (0.02 + 0.0022 * $("pen").value));
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo((from ?? to).x, (from ?? to).y);
  pen.lineTo(to.x, to.y + (from ? 0 : 0.01)); // A line of no length would not be drawn.
  pen.stroke();
  return to;
}

const hiddenColour = () => getComputedStyle(document.documentElement).getPropertyValue("--hidden");

function fill(colour) {
  const pen = context("image");
  pen.globalCompositeOperation = "source-over";
  pen.fillStyle = colour;
  pen.fillRect(0, 0, model.width, model.height);
}

function pixelsOf(id) {
  return context(id).getImageData(0, 0, model.width, model.height).data;
}

function readPad({ drawing = false } = {}) {
  const rgba = pixelsOf("image"), bytes = new Uint8Array(sizeOfImage());
  for (let i = 0; i < model.width * model.height; i++)
    for (let c = 0; c < model.channels; c++) bytes[model.channels * i + c] = rgba[4 * i + c];
  state.image = toBase64(bytes);
  $("hint").hidden = true;
  search(drawing);
}

function hidden() {
  const rgba = pixelsOf("mask"), bytes = new Uint8Array(model.width * model.height);
  for (let i = 0; i < bytes.length; i++) bytes[i] = rgba[4 * i + 3] >= 128 ? 1 : 0;
  return bytes;
}

function wipe() {
  fill(ground());
  context("mask").clearRect(0, 0, model.width, model.height);
  state.image = state.target = null;
  $("hint").hidden = false;
  $("found-title").textContent = "Candidates";
  $("found-explain").replaceChildren(...invitation);
  $("candidates").replaceChildren();
  showFoundControls({});
  showCode();
  showOptions();
}

async function openFile(file) {
  if (!file) return;
  if (!FILE_TYPES.includes(file.type)) return say(`${file.name.slice(0, 80)}: expected a PNG, JPEG, WebP, GIF, BMP or AVIF image.`);
  if (file.size > MOST_FILE_BYTES) return say(`${file.name.slice(0, 80)}: larger than ${MOST_FILE_BYTES >> 20} MiB. Scale it down.`);
  const picture = new Image(), url = URL.createObjectURL(file);
  try {
    picture.src = url;
    // The size is known before the pixels are decoded, which takes the memory.
    await new Promise((loaded, failed) => Object.assign(picture, { onload: loaded, onerror: failed }));
    if (picture.naturalWidth * picture.naturalHeight > MOST_FILE_PIXELS) return say(`${file.name.slice(0, 80)}: more than ${MOST_FILE_PIXELS >> 20} million pixels. Scale it down.`);
    place(picture);
    say("");
    readPad();
  } catch {
    say(`${file.name.slice(0, 80)}: the browser cannot read this image.`);
  } finally {
    URL.revokeObjectURL(url);
  }
}

// The largest centred part of the model's shape. Halving first keeps details: browsers average few pixels at a time.
function place(picture) {
  const { naturalWidth: w, naturalHeight: h } = picture, scale = Math.max(model.width / w, model.height / h);
  const cut = { w: model.width / scale, h: model.height / scale };
  const size = { w: Math.max(model.width, Math.min(cut.w, 2048)), h: Math.max(model.height, Math.min(cut.h, 2048 * (cut.h / cut.w))) };
  let from = Object.assign(document.createElement("canvas"), { width: size.w, height: size.h });
  const pen = from.getContext("2d");
  pen.fillStyle = "#fff"; // Transparent parts become white, as in the data of image folders.
  pen.fillRect(0, 0, from.width, from.height);
  pen.drawImage(picture, (w - cut.w) / 2, (h - cut.h) / 2, cut.w, cut.h, 0, 0, from.width, from.height);
  while (from.width >= 2 * model.width && from.height >= 2 * model.height) {
    const half = Object.assign(document.createElement("canvas"), { width: from.width >> 1, height: from.height >> 1 });
    half.getContext("2d").drawImage(from, 0, 0, half.width, half.height);
    from = half;
  }
  const onto = context("image");
  onto.globalCompositeOperation = "source-over";
  onto.imageSmoothingQuality = "high";
  onto.drawImage(from, 0, 0, model.width, model.height);
  if (model.channels === 1) mapPixels(([r, g, b]) => Array(3).fill(0.299 * r + 0.587 * g + 0.114 * b));
}

function mapPixels(change) {
  const pen = context("image"), pixels = pen.getImageData(0, 0, model.width, model.height);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set(change(pixels.data.slice(i, i + 3)), i);
  pen.putImageData(pixels, 0, 0);
}

// ── candidates: the codes of your image, or completions of its visible part ────────────────────

let candidates = [];
const invitation = [...$("found-explain").childNodes]; // Shown while there is no image.

function showFoundControls({ beam = false, guided = false }) {
  $("beaming").hidden = !beam;
  $("warming").hidden = $("redraw").hidden = !guided;
}

// The best code of a greedy search comes first, since it is fast; the others follow unless a stroke is still drawn.
const search = newestOnly(async (drawing = false) => {
  if ((await searchOnce(true)) && !drawing) await searchOnce(false);
});

// Return whether the answer was shown: your image may have changed meanwhile.
async function searchOnce(greedy) {
  const image = state.image, mask = hidden(), masked = mask.includes(1);
  if (!image) return false;
  state.target = masked ? null : image;
  $("candidates").setAttribute("aria-busy", "true");
  const temperature = $("temperature").value / 100, width = greedy ? 1 : Number($("width").value);
  const asked = masked
    ? ask("complete", { image, hidden: toBase64(mask), answers: greedy ? 1 : 8, temperature, seed: state.seed })
    : ask("encode", { image, width });
  const answer = await asked.finally(() => $("candidates").removeAttribute("aria-busy"));
  if (image !== state.image) return false;
  $("found-title").textContent = masked ? "Completions" : "Candidates";
  showFoundControls({ beam: !masked, guided: masked });
  $("found-explain").textContent = masked
    ? "Guided by the visible pixels alone, whose error is shown. The first takes the best option of each stage; the others are drawn."
    : "The best codes for your image, by a beam search. Options that differ from the first are marked.";
  drawCandidates(answer);
  // From the middle of a walk to the end of the code found, so that its whole reconstruction is seen.
  setCodes(answer.codes[0], { at: state.codes.length === model.stages ? state.at : model.stages, link: "replace" });
  return true;
}

function drawCandidates({ codes, images, losses }) {
  candidates = codes;
  const items = codes.map((code, i) => {
    const button = element("button", "candidate"), label = element("span"), text = element("code"), item = element("li");
    label.append(element("b", "", i + 1), element("span", "", shown(losses[i])));
    text.append(...optionsOf(code, codes[0]));
    button.append(canvasOf(imageOf(images, i)), label, text);
    button.title = `${lossText(losses[i])} · code ${code.join(",")}`;
    button.addEventListener("click", () => setCodes(code, { at: state.at }));
    item.append(button);
    return item;
  });
  $("candidates").replaceChildren(...items);
}

// A code as text, where it differs from the best one in bold; of a long code only these options, with their stages.
function optionsOf(code, best) {
  const differs = (option, stage) => option !== best[stage];
  if (code.length <= SHORT_CODE || code === best)
    return code.flatMap((option, stage) => [stage ? " " : "", differs(option, stage) ? element("b", "", option) : option]);
  const parts = code.flatMap((option, stage) => (differs(option, stage) ? [` ${stage + 1}:`, element("b", "", option)] : []));
  return ["stage", ...parts];
}

function markCandidates() {
  const code = String(state.codes);
  [...$("candidates").children].forEach((item, i) => item.firstChild.setAttribute("aria-pressed", String(candidates[i]) === code));
}

// ── controls ───────────────────────────────────────────────────────────────────────────────────

async function share() {
  const link = location.href.split("#")[0] + linkOf(state.codes);
  history.replaceState(history.state, "", link);
  const contains = state.image ? " It contains the code, but not your image." : "";
  try {
    await navigator.clipboard.writeText(link);
    say(contains && `The link is copied.${contains}`);
    $("share").textContent = "Copied";
    setTimeout(() => ($("share").textContent = "Copy link"), 1500);
  } catch {
    say(`The browser does not allow copying. The link is in the address bar: ${link}${contains}`);
  }
}

function startControls() {
  $("share").addEventListener("click", share);
  $("dismiss").addEventListener("click", () => say(""));
  $("random").addEventListener("click", () => setCodes(Array.from({ length: model.stages }, () => Math.floor(Math.random() * model.options))));
  $("cut").addEventListener("click", () => setCodes(state.codes.slice(0, state.at), { at: state.at + 1 }));
  $("empty").addEventListener("click", () => setCodes([]));
  $("stage").addEventListener("input", () => select(Number($("stage").value)));
  for (const id of ["order", "show"]) $(id).addEventListener("change", () => showOptions());
  $("more").addEventListener("click", () => showOptions($("options").children.length));
  $("back").addEventListener("click", () => setCodes(state.change.codes, { at: state.change.stage }));
  $("width").addEventListener("change", () => search());
  $("temperature").addEventListener("change", () => search());
  $("redraw").addEventListener("click", () => {
    state.seed += 1;
    search();
  });
  $("wipe").addEventListener("click", wipe);
  $("invert").addEventListener("click", () => {
    mapPixels((pixel) => pixel.map((value) => 255 - value));
    readPad();
  });
  $("copy").addEventListener("click", () => {
    const stage = Math.min(state.at, state.codes.length);
    canvasOf(imageOf(state.along.images, stage), $("image"));
    readPad();
  });
  $("file").addEventListener("change", () => {
    openFile($("file").files[0]);
    $("file").value = "";
  });
  startDropping();
  addEventListener("popstate", readLink);
}

// A file is accepted anywhere on the page: one dropped beside the pad would otherwise replace the page.
function startDropping() {
  const mark = (over) => (event) => {
    event.preventDefault();
    $("pad").classList.toggle("over", over);
  };
  addEventListener("dragover", mark(true));
  addEventListener("dragleave", mark(false));
  addEventListener("drop", (event) => {
    mark(false)(event);
    openFile(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => openFile(event.clipboardData.files[0]));
}

async function start() {
  model = await ask("model");
  document.title = `${model.name} · vqtk explore`;
  $("name").textContent = model.name;
  $("facts").textContent = `${model.stages} stages × ${model.options} options = ${count(model.stages * Math.log2(model.options))} bits · images of ${model.width}×${model.height} ${model.channels === 1 ? "grey" : "RGB"} pixels`;
  startPad();
  startControls();
  history.replaceState(null, ""); // A page that is loaded again has lost your image, too.
  readLink();
}

start().catch((error) => say(error.message));
