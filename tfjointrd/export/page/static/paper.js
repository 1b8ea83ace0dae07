// A canvas to draw on: with pointers, and with the arrow keys.

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const WIDTH = { small: 10, large: 5 }; // of the pen, in percent of the drawing's side
const SIDE = 280; // least pixels of the drawing's longer side

export class Paper {
  // `mark` shows where the pen is; `dark` and `width` are the inputs that say how to draw. `show` takes the drawing, an
  // ImageData, and whether more of the stroke is to come.
  constructor(canvas, { mark, dark, width, show }) {
    Object.assign(this, { canvas, mark, dark, width, show, x: 0, y: 0 });
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.move(...this.place(event));
      this.draw(this.x, this.y);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) this.draw(...this.place(event));
    });
    canvas.addEventListener("pointerup", () => this.show(this.image(), false));
    canvas.addEventListener("keydown", (event) => {
      if (!(event.key in ARROWS)) return;
      event.preventDefault();
      const step = Math.max(canvas.width, canvas.height) / 28;
      const to = [this.x + ARROWS[event.key][0] * step, this.y + ARROWS[event.key][1] * step];
      if (event.shiftKey) this.move(...to);
      else this.draw(...to);
    });
    canvas.addEventListener("keyup", (event) => {
      if (event.key in ARROWS && !event.shiftKey) this.show(this.image(), false);
    });
  }

  // Takes the shape of a network's input, and the colours and the pen that fit it.
  fit([, height, width, channels]) {
    const scale = Math.max(SIDE, width, height) / Math.max(width, height);
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.dark.checked = channels === 1;
    this.width.value = Math.max(width, height) <= 32 ? WIDTH.small : WIDTH.large;
    this.clear();
  }

  clear() {
    this.context.fillStyle = this.dark.checked ? "#000" : "#fff";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.move(this.canvas.width / 2, this.canvas.height / 2);
  }

  image() {
    return this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
  }

  place({ offsetX, offsetY }) {
    const { clientWidth, clientHeight, width, height } = this.canvas;
    return [(offsetX / clientWidth) * width, (offsetY / clientHeight) * height];
  }

  move(x, y) {
    this.x = Math.min(this.canvas.width, Math.max(0, x));
    this.y = Math.min(this.canvas.height, Math.max(0, y));
    this.mark.style.left = `${(100 * this.x) / this.canvas.width}%`;
    this.mark.style.top = `${(100 * this.y) / this.canvas.height}%`;
  }

  draw(x, y) {
    const from = [this.x, this.y];
    this.move(x, y);
    this.context.strokeStyle = this.dark.checked ? "#fff" : "#000";
    this.context.lineWidth = (this.width.value / 100) * Math.max(this.canvas.width, this.canvas.height);
    this.context.lineCap = "round";
    this.context.beginPath();
    this.context.moveTo(...from);
    this.context.lineTo(this.x, this.y);
    this.context.stroke();
    this.show(this.image(), true);
  }
}
