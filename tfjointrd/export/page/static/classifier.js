// Runs a .tflite file on pictures as Python does: pixels as Pillow resizes them, numbers as TFLiteModel codes them.

const WEIGHT_BITS = 22; // of Pillow's weights, which are integers

// The largest part of a picture in the middle that has the shape of the network's input.
export function centre(width, height, [, inputHeight, inputWidth]) {
  const partWidth = Math.min(width, (height * inputWidth) / inputHeight);
  const partHeight = Math.min(height, (width * inputHeight) / inputWidth);
  return { left: (width - partWidth) / 2, top: (height - partHeight) / 2, width: partWidth, height: partHeight };
}

// For each of `size` new pixels, the first old pixel that counts and the weights of those from there on: a triangle,
// as wide as the new pixel and at least one old pixel on each side.
function triangles(from, length, limit, size) {
  const start = Math.fround(from); // as Pillow keeps the ends
  const scale = Math.fround(Math.fround(from + length) - start) / size;
  const reach = Math.max(scale, 1);
  return Array.from({ length: size }, (_, position) => {
    const middle = start + (position + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - reach + 0.5));
    const last = Math.min(limit, Math.trunc(middle + reach + 0.5));
    const weights = [];
    for (let old = first; old < last; old++) weights.push(Math.max(0, 1 - Math.abs(old - middle + 0.5) / reach));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: Int32Array.from(weights, (weight) => Math.trunc(0.5 + (weight / sum) * 2 ** WEIGHT_BITS)) };
  });
}

// Resizes one axis of pixels (outer, length, inner) in place of `length` pixels to as many as there are triangles.
function resizeAxis(pixels, outer, length, inner, filters) {
  const resized = new Uint8ClampedArray(outer * filters.length * inner);
  for (let o = 0, to = 0; o < outer; o++) {
    for (const { first, weights } of filters) {
      for (let i = 0; i < inner; i++, to++) {
        let sum = 2 ** (WEIGHT_BITS - 1);
        let from = (o * length + first) * inner + i;
        for (let w = 0; w < weights.length; w++, from += inner) sum += pixels[from] * weights[w];
        resized[to] = sum >> WEIGHT_BITS;
      }
    }
  }
  return resized;
}

// The pixels from 0 to 255 (height, width, channels) that a network sees of a picture, an ImageData.
export function pixelsFor(picture, shape) {
  const [, height, width, channels] = shape;
  const box = centre(picture.width, picture.height, shape);
  const rows = triangles(box.top, box.height, picture.height, height);
  const columns = triangles(box.left, box.width, picture.width, width);
  const firstRow = rows[0].first;
  const lastRow = rows[height - 1].first + rows[height - 1].weights.length;
  const part = picture.data.subarray(firstRow * picture.width * 4, lastRow * picture.width * 4);
  const packed = new Uint8Array((part.length / 4) * channels);
  for (let from = 0, to = 0; from < part.length; from += 4) {
    const [red, green, blue] = [part[from], part[from + 1], part[from + 2]];
    if (channels === 1) packed[to++] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    else {
      packed[to++] = red;
      packed[to++] = green;
      packed[to++] = blue;
    }
  }
  const narrow = resizeAxis(packed, lastRow - firstRow, picture.width, channels, columns);
  const shifted = rows.map(({ first, weights }) => ({ first: first - firstRow, weights }));
  return resizeAxis(narrow, 1, lastRow - firstRow, width * channels, shifted);
}

// As numpy rounds: halves to the even neighbour.
function round(x) {
  const down = Math.floor(x);
  if (x - down !== 0.5) return Math.round(x);
  return down % 2 === 0 ? down : down + 1;
}

// The file's input for pixels: brought to the network's range, and coded by scale and zero point if it takes integers.
export function encode(pixels, { input, pixels: range }) {
  const channels = input.shape[3];
  const tables = Array.from({ length: channels }, (_, channel) =>
    Float32Array.from({ length: 256 }, (_, pixel) => {
      const value = Math.fround(pixel * range.scale[channel] + range.offset[channel]);
      if (input.type === "float32") return value;
      return Math.min(255, Math.max(0, round(Math.fround(value / Math.fround(input.scale))) + input.zero_point));
    }),
  );
  const encoded = new (input.type === "float32" ? Float32Array : Uint8Array)(pixels.length);
  for (let i = 0; i < pixels.length; i++) encoded[i] = tables[i % channels][pixels[i]];
  return encoded;
}

export function decode(values, { output }) {
  if (output.type === "float32") return Array.from(values);
  return Array.from(values, (value) => output.scale * (value - output.zero_point));
}

export function softmax(logits) {
  const largest = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

// A file as an address in memory, once its content is the one that the page was made with. The import of one script by
// the other, and of the binary by a script, would otherwise be without such a check.
async function fetchChecked({ url, integrity }, what) {
  try {
    return await (await fetch(url, { integrity })).arrayBuffer();
  } catch {
    throw new Error(`${what} cannot be fetched, or is not the one that this page was made with (${url}).`);
  }
}

let runtime;

// Loads LiteRT.js once. `files` is what page.json says of its files.
export function loadRuntime(files) {
  runtime ??= load(files);
  return runtime;
}

async function load(files) {
  const address = (content, type) => URL.createObjectURL(new Blob([content], { type }));
  const file = async (path, type) => {
    const content = await fetchChecked(files[path], "A part of the runtime");
    return type === "text" ? new TextDecoder().decode(content) : address(content, type);
  };
  const [core, utilities] = await Promise.all([
    file("core/dist/index.js", "text"),
    file("wasm-utils/dist/index.js", "text/javascript"),
  ]);
  const linked = core.replace(/from "@litertjs\/wasm-utils"/, `from "${utilities}"`);
  const litert = await import(address(linked, "text/javascript"));
  const variant = (await litert.supportsFeature("relaxedSimd")) ? "litert_wasm_internal" : "litert_wasm_compat_internal";
  const [script, binary] = await Promise.all([
    file(`core/wasm/${variant}.js`, "text/javascript"),
    file(`core/wasm/${variant}.wasm`, "application/wasm"),
  ]);
  self.Module = { locateFile: () => binary };
  await litert.loadLiteRt(`${script}#.js`); // which is told from a folder by its end
  return litert;
}

export class Classifier {
  // `description` is what page.json says of a file.
  static async load(description, litert) {
    const content = await fetchChecked(description, "The file");
    const model = await litert.loadAndCompile(new Uint8Array(content), { accelerator: "wasm" });
    return new Classifier(description, model, litert);
  }

  constructor(description, model, litert) {
    Object.assign(this, { description, model, litert });
  }

  see(picture) {
    return pixelsFor(picture, this.description.input.shape);
  }

  // Runs the file `times` on pixels. Returns outputs as floats, and milliseconds of one run.
  async run(pixels, times = 1) {
    const input = new this.litert.Tensor(encode(pixels, this.description), this.description.input.shape);
    let outputs = [];
    try {
      const start = performance.now();
      for (let i = 0; i < times; i++) {
        outputs.forEach((tensor) => tensor.delete());
        outputs = await this.model.run(input);
      }
      const milliseconds = (performance.now() - start) / times;
      return { outputs: decode(await outputs[0].data(), this.description), milliseconds };
    } finally {
      [input, ...outputs].forEach((tensor) => tensor.delete());
    }
  }

  probabilities(outputs) {
    return this.description.activation ? outputs : softmax(outputs);
  }
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// Milliseconds of each file: the median of rounds in which they take turns, once each has run before. Browsers
// measure time coarsely, so that fast files run several times a round. `null` if `stop` says that it is not wanted.
export async function time(classifiers, pixels, stop, rounds = 15, budget = 800) {
  const times = [];
  for (const [i, classifier] of classifiers.entries()) {
    const { milliseconds } = await classifier.run(pixels[i]);
    times.push(Math.min(50, Math.ceil(5 / Math.max(milliseconds, 0.1))));
  }
  const found = classifiers.map(() => []);
  const end = performance.now() + budget;
  for (let round = 0; round < rounds && (round < 3 || performance.now() < end); round++) {
    await new Promise((resolve) => setTimeout(resolve)); // lets the page hear of what happens meanwhile
    if (stop()) return null;
    for (const [i, classifier] of classifiers.entries()) {
      found[i].push((await classifier.run(pixels[i], times[i])).milliseconds);
    }
  }
  return found.map((values, i) => ({ milliseconds: median(values), runs: values.length * times[i] }));
}
