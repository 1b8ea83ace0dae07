import { Camera } from "./camera.js";
import { centre, Classifier, loadRuntime, median, time } from "./classifier.js";
import { Paper } from "./paper.js";

const SHOWN = 5;
const LARGEST = 4096; // longest side of a picture; some phones have no memory for more
const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const bytes = (count) => (count < 2 ** 20 ? `${number.format(count / 1024)} KiB` : `${number.format(count / 2 ** 20)} MiB`);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

let labels = [];
let cards = []; // {classifier, element, recent}, of the files that work

function complain(message) {
  $("problem").textContent = message;
  if (!message) return;
  say("");
  $("problem").scrollIntoView({ block: "nearest" });
}

// --- Results

function addCard(description) {
  const element = $("card").content.cloneNode(true).firstElementChild;
  const [, height, width, channels] = description.input.shape;
  const end = ({ type, scale, zero_point: zero }) =>
    type === "float32" ? "float32" : `${type}, scale ${number.format(scale)}, zero point ${zero}`;
  const activation = { softmax: "probabilities", sigmoid: "a probability for each class by itself" };
  const facts = {
    Size: `${description.bytes.toLocaleString("en")} bytes`,
    Input: `${end(description.input)}; pixels as ${description.pixels.range.replace("..", " to ")}`,
    Output: `${end(description.output)}; ${activation[description.activation] ?? "logits, of which this page takes the softmax"}`,
  };
  element.querySelector("h3").textContent = description.name;
  element.querySelector(".facts").textContent =
    `${bytes(description.bytes)} · ${width} × ${height}, ${channels === 1 ? "grey" : "colour"}`;
  for (const [term, text] of Object.entries(facts)) {
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = term;
    dd.textContent = text;
    element.querySelector("dl").append(dt, dd);
  }
  $("cards").append(element);
  return element;
}

function showSeen(element, pixels, [, height, width, channels]) {
  const canvas = element.querySelector(".seen");
  Object.assign(canvas, { width, height, hidden: false });
  const image = new ImageData(width, height);
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let c = 0; c < 3; c++) image.data[4 * pixel + c] = pixels[pixel * channels + (channels === 3 ? c : 0)];
    image.data[4 * pixel + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function showClasses(element, probabilities) {
  const best = probabilities.map((share, index) => ({ share, index }));
  best.sort((a, b) => b.share - a.share);
  const rows = best.slice(0, SHOWN).map(({ share, index }) => {
    const row = document.createElement("li");
    const [name, text, bar, filled] = ["span", "span", "div", "i"].map((tag) => document.createElement(tag));
    Object.assign(name, { className: "name", textContent: labels[index] });
    Object.assign(text, { className: "share", textContent: percent(share) });
    bar.className = "bar";
    filled.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
    bar.append(filled);
    row.append(name, text, bar);
    return row;
  });
  element.querySelector(".classes").replaceChildren(...rows);
  return best[0];
}

function showTime(element, milliseconds, detail) {
  const strong = document.createElement("strong");
  strong.textContent = milliseconds < 0.005 ? "below 0.01 ms" : `${number.format(milliseconds)} ms`;
  element.querySelector(".time").replaceChildren(strong, ` ${detail}`);
}

// What the status line says, which screen readers read out: of live pictures, nothing that changes with each.
function summary(best, times) {
  const named = best.map(({ index, share }) => (times ? `${labels[index]}, ${percent(share)}` : labels[index]));
  if (cards.length === 1) return named[0];
  const [first, second] = best;
  const classes = first.index === second.index ? `Both: ${labels[first.index]}.` : `They differ: ${named.join(" and ")}.`;
  if (!times) return classes;
  const ratio = times[0].milliseconds / times[1].milliseconds;
  const names = cards.map(({ classifier }) => classifier.description.name);
  const [faster, factor] = ratio >= 1 ? [names[1], ratio] : [names[0], 1 / ratio];
  const speed = factor < 1.05 ? "They are equally fast." : `${faster} is ${number.format(factor)} times as fast.`;
  return `${classes} ${speed}`;
}

let shown = 0; // counts the pictures that were taken off

// Classifies a picture with all files. Live pictures are run once; others several times, for the milliseconds.
async function classify(picture, live) {
  const mine = shown;
  const pixels = cards.map(({ classifier }) => classifier.see(picture));
  const best = [];
  for (const [i, card] of cards.entries()) {
    const { outputs, milliseconds } = await card.classifier.run(pixels[i]);
    if (mine !== shown) return;
    showSeen(card.element, pixels[i], card.classifier.description.input.shape);
    best.push(showClasses(card.element, card.classifier.probabilities(outputs)));
    card.recent = live ? [...card.recent, milliseconds].slice(-15) : [];
    if (live) showTime(card.element, median(card.recent), "a picture, live");
  }
  if (live) {
    say(summary(best), 1500);
    return;
  }
  const times = await time(cards.map(({ classifier }) => classifier), pixels, () => waiting !== null);
  if (mine !== shown || !times) return;
  times.forEach(({ milliseconds, runs }, i) => showTime(cards[i].element, milliseconds, `a picture, median of ${runs} runs`));
  say(summary(best, times));
}

let said = 0;
let later;

// Says something once what was said before could be read out.
function say(text, pause = 0) {
  clearTimeout(later);
  const status = $("status");
  const wait = status.textContent === "" ? 0 : said + pause - performance.now();
  if (wait > 0) later = setTimeout(say, wait, text);
  else if (status.textContent !== text) {
    status.textContent = text;
    said = performance.now();
  }
}

// One picture at a time; of those that come meanwhile, the last.
let busy = false;
let waiting = null;

async function request(picture, live = false) {
  if (!cards.length) return;
  waiting = { picture, live };
  if (busy) return;
  busy = true;
  try {
    while (waiting) {
      const next = waiting;
      waiting = null;
      document.body.dataset.state = "busy";
      await classify(next.picture, next.live);
    }
  } catch (error) {
    complain(`The picture could not be classified: ${error.message}`);
  } finally {
    busy = false;
    document.body.dataset.state = "done";
  }
}

function forget() {
  waiting = null;
  shown++;
  clearTimeout(later);
  for (const { element } of cards) {
    element.querySelector(".classes").replaceChildren();
    element.querySelector(".time").textContent = "";
    element.querySelector(".seen").hidden = true;
  }
}

// --- Pictures

// The pixels of a picture, film or drawing, on white where it is transparent.
function grab(source, width, height) {
  const shrink = Math.min(1, LARGEST / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * shrink));
  canvas.height = Math.max(1, Math.round(height * shrink));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return { canvas, image: context.getImageData(0, 0, canvas.width, canvas.height) };
}

async function take(file) {
  if (!file || !cards.length) return;
  select("file");
  complain("");
  forget();
  const mine = shown;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    if (mine !== shown) return;
    $("preview").hidden = true;
    complain(`“${file.name}” cannot be decoded as a picture. Choose a PNG, JPEG, WebP or GIF file.`);
    return;
  }
  if (mine !== shown) { // another source or picture was chosen while this one was decoded
    bitmap.close();
    return;
  }
  const { canvas, image } = grab(bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  preview(canvas);
  say("Classifying …");
  await request(image);
}

// Shows the picture, darker outside of what the networks see.
function preview(picture) {
  const canvas = $("preview");
  const scale = Math.min(4, 720 / Math.max(picture.width, picture.height));
  canvas.width = Math.max(1, Math.round(picture.width * scale));
  canvas.height = Math.max(1, Math.round(picture.height * scale));
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = scale < 1;
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const box = centre(canvas.width, canvas.height, cards[0].classifier.description.input.shape);
  context.fillStyle = "rgb(0 0 0 / 55%)";
  context.beginPath();
  context.rect(0, 0, canvas.width, canvas.height);
  context.rect(box.left, box.top, box.width, box.height);
  context.fill("evenodd");
  context.strokeStyle = "rgb(255 255 255 / 80%)";
  context.lineWidth = 2;
  context.strokeRect(box.left + 1, box.top + 1, box.width - 2, box.height - 2);
  canvas.hidden = false;
}

$("file").addEventListener("change", (event) => {
  take(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])][0];
  if (file) take(file);
  else complain("There is no picture to paste.");
});
const choose = document.querySelector(".choose");
addEventListener("dragover", (event) => {
  event.preventDefault();
  choose.classList.add("over");
});
addEventListener("dragleave", () => choose.classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  choose.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) take(file);
  else complain("What was dropped is no file. Save the picture, and choose it.");
});

// --- Camera and drawing

const camera = new Camera($("video"), {
  show: (video) => request(grab(video, video.videoWidth, video.videoHeight).image, true),
  complain,
});

function freeze(on) {
  $("freeze").setAttribute("aria-pressed", on);
  camera.freeze(on);
}

$("freeze").addEventListener("click", () => freeze($("freeze").getAttribute("aria-pressed") !== "true"));
$("turn").addEventListener("click", () => {
  freeze(false);
  camera.turn();
});

const paper = new Paper($("paper"), {
  mark: $("pen"),
  dark: $("dark"),
  width: $("width"),
  show: (image, live) => {
    complain("");
    request(image, live);
  },
});

function startAnew() {
  paper.clear();
  forget();
  say("Draw something.");
}

$("clear").addEventListener("click", startAnew);
$("dark").addEventListener("change", startAnew);

// --- The page

function select(name) {
  document.querySelector(`input[name=source][value=${name}]`).checked = true;
  for (const panel of document.querySelectorAll(".panel")) panel.hidden = panel.dataset.source !== name;
  if (name !== "camera") camera.stop();
}

for (const radio of document.querySelectorAll("input[name=source]")) {
  radio.addEventListener("change", () => {
    if (!cards.length) {
      select(radio.value);
      return;
    }
    complain("");
    forget();
    $("preview").hidden = true;
    select(radio.value);
    say({ file: "Choose a picture.", camera: "", draw: "Draw something." }[radio.value]);
    if (radio.value === "camera") {
      freeze(false);
      camera.start();
    }
    if (radio.value === "draw") paper.clear();
  });
}

async function start() {
  if (typeof WebAssembly === "undefined") {
    throw new Error("This browser has no WebAssembly, which runs the networks. Update it, switch WebAssembly on, or take another one.");
  }
  const response = await fetch("page.json").catch(() => null);
  if (!response?.ok) throw new Error("The page's settings, page.json, cannot be fetched.");
  const settings = await response.json();
  labels = settings.labels;
  $("runtime").textContent = `LiteRT.js ${settings.runtime.version} by Google, Apache License 2.0. Page written by tfjointrd.`;
  $("about").textContent = `${labels.length} classes: ${labels.slice(0, 12).join(", ")}${labels.length > 12 ? " …" : ""}. Pictures stay on this device.`;
  say("Loading the runtime, 10 MB the first time …");
  const litert = await loadRuntime(settings.runtime.files);
  say("Loading the networks …");
  const problems = [];
  for (const description of settings.models) {
    try {
      const classifier = await Classifier.load(description, litert);
      cards.push({ classifier, element: addCard(description), recent: [] });
    } catch (error) {
      problems.push(`${description.name} does not load. ${error.message ?? error}`);
    }
  }
  if (cards.length) {
    const { shape } = cards[0].classifier.description.input;
    paper.fit(shape);
    $("video").style.aspectRatio = `${shape[2]} / ${shape[1]}`; // shows the centre, as the networks see it
    $("file").disabled = false;
    say("Choose a picture.");
  }
  if (problems.length) $("problem").textContent = problems.join(" ");
}

select("file");
start()
  .catch((error) => {
    complain(error.message ?? String(error));
    document.querySelector("main").hidden = true;
  })
  .finally(() => (document.body.dataset.state = "ready"));
