// The camera: hands over one picture after the other, as fast as they are taken care of.

const REASONS = {
  NotAllowedError: "The camera was refused. Allow it in the browser's settings for this page, or choose a picture.",
  NotFoundError: "There is no camera. Choose a picture instead.",
  NotReadableError: "The camera is in use by another program. Close that one, or choose a picture.",
};

export class Camera {
  // `show` takes the video when there is a new picture and returns a promise; `complain` takes a message.
  constructor(video, { show, complain }) {
    Object.assign(this, { video, show, complain, stream: null, facing: "environment", starts: 0 });
  }

  async start() {
    this.stop();
    const mine = this.starts;
    this.complain("");
    if (!navigator.mediaDevices) {
      this.complain("Browsers give the camera only to pages from https:// or from this very machine. Choose a picture instead.");
      return;
    }
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: this.facing, width: 640 }, audio: false });
    } catch (error) {
      if (mine === this.starts) this.complain(REASONS[error.name] ?? `The camera does not start: ${error.message}`);
      return;
    }
    if (mine !== this.starts) {
      stream.getTracks().forEach((track) => track.stop()); // it was stopped before it was allowed
      return;
    }
    this.stream = stream;
    this.video.srcObject = stream;
    this.video.classList.toggle("mirrored", this.facing === "user");
    this.freeze(false);
    this.watch(stream);
  }

  async watch(stream) {
    while (this.stream === stream) {
      if (!this.video.paused && this.video.videoWidth) await this.show(this.video);
      await new Promise(requestAnimationFrame);
    }
  }

  stop() {
    this.starts++;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.video.srcObject = null;
  }

  // Takes the camera at the front instead of that at the back, or the other way round.
  turn() {
    this.facing = this.facing === "user" ? "environment" : "user";
    return this.start();
  }

  freeze(on) {
    if (on) this.video.pause();
    else this.video.play().catch(() => {}); // it may be stopped before it plays
  }
}
