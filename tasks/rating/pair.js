// The two pictures: side by side or one above the other, whichever shows them larger; flipped in place; zoomed together.

const LARGEST = 16;
const RETRY_MS = 1500;
const SEEN_MS = 150;
const PIXELS_FROM = 2;
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

export class Pair {
  /** `stage` holds two figures, each with a view; `onChange` hears of the zoom and of pictures that arrive or do not. */
  constructor(stage, onChange) {
    this.stage = stage;
    this.onChange = onChange;
    this.figures = [...stage.querySelectorAll("figure")];
    this.views = [...stage.querySelectorAll(".view")];
    this.source = stage.querySelector("img.source");
    this.over = stage.querySelector("img.over");
    this.edited = stage.querySelector("img.edited");
    this.ready = this.seen = this.failed = false;
    this.toggled = false;
    this.#unzoom();
    new ResizeObserver(() => this.#place()).observe(stage);
    for (const view of this.views) this.#listen(view);
  }

  /**
   * Show an item's pictures, or none. Keeps trying. `ready` turns true once both are there, and `seen` so long after that
   * that a key pressed twice by mistake does not rate what nobody has looked at.
   */
  async show(item) {
    const showing = (this.showing = Symbol());
    this.ready = this.seen = this.failed = false;
    this.#unzoom();
    this.flip(false);
    this.stage.classList.add("loading");
    while (item && !this.ready) {
      this.source.src = this.over.src = item.source;
      this.edited.src = item.edited;
      try {
        await Promise.all([this.source.decode(), this.over.decode(), this.edited.decode()]);
        if (showing !== this.showing) return;
        this.ready = true;
      } catch {
        if (showing !== this.showing) return;
        this.failed = true;
        this.onChange();
        await pause(RETRY_MS);
        if (showing !== this.showing) return;
        for (const image of [this.source, this.over, this.edited]) image.removeAttribute("src");
      }
    }
    if (!item) return;
    this.failed = false;
    this.stage.classList.remove("loading");
    this.#place();
    await pause(SEEN_MS);
    if (showing !== this.showing) return;
    this.seen = true;
    this.onChange();
  }

  /** The source in the place of the edit: until told otherwise, or, with `held`, as long as something is held down. */
  flip(on, held = false) {
    if (!held) this.toggled = on;
    const flipped = held ? on !== this.toggled : on;
    this.stage.classList.toggle("flipped", flipped);
    this.figures[1].querySelector("b").textContent = flipped ? "Source, in the place of the edit" : "Edited";
    this.onChange();
  }

  /** Zoom by a factor about a point of the pictures, in shares of their width and height; without one, the middle. */
  zoom(factor, at = { x: this.x, y: this.y }) {
    const before = this.factor;
    this.factor = clamp(before * factor, 1, LARGEST);
    const kept = before / this.factor;
    this.x = at.x + (this.x - at.x) * kept;
    this.y = at.y + (this.y - at.y) * kept;
    this.#place();
  }

  fit() {
    this.#unzoom();
    this.#place();
  }

  /** Screen pixels for one pixel of the source. */
  get magnification() {
    return this.ready ? (this.#boxOf(this.source).width * this.factor) / this.source.naturalWidth : 1;
  }

  #unzoom() {
    this.factor = 1;
    this.x = this.y = 0.5;
  }

  #place() {
    if (!this.ready) return;
    this.#arrange();
    this.x = clamp(this.x, 0, 1);
    this.y = clamp(this.y, 0, 1);
    for (const image of [this.source, this.over, this.edited]) {
      const box = this.#boxOf(image);
      const [width, height] = [box.width * this.factor, box.height * this.factor];
      const left = place(this.views[0].clientWidth, width, this.x);
      const top = place(this.views[0].clientHeight, height, this.y);
      Object.assign(image.style, { width: `${width}px`, height: `${height}px`, left: `${left}px`, top: `${top}px` });
      image.classList.toggle("pixels", width / image.naturalWidth >= PIXELS_FROM);
      if (image === this.source) {
        if (width > this.views[0].clientWidth) this.x = (this.views[0].clientWidth / 2 - left) / width;
        if (height > this.views[0].clientHeight) this.y = (this.views[0].clientHeight / 2 - top) / height;
      }
    }
    for (const [figure, image] of [[this.figures[0], this.source], [this.figures[1], this.edited]]) {
      figure.querySelector("span").textContent = `${image.naturalWidth} × ${image.naturalHeight}`;
    }
    this.stage.classList.toggle("zoomed", this.factor > 1);
    this.onChange();
  }

  /** Side by side or above each other, whichever leaves the pictures larger. */
  #arrange() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    const caption = this.figures[0].querySelector("figcaption").offsetHeight;
    const gap = parseFloat(getComputedStyle(this.stage).columnGap) || 0;
    const { naturalWidth, naturalHeight } = this.source;
    const scale = (w, h) => Math.min(w / naturalWidth, h / naturalHeight);
    const beside = scale((width - gap) / 2, height - caption);
    const above = scale(width, (height - gap) / 2 - caption);
    this.stage.classList.toggle("above", above > beside);
  }

  /** An image's size without zoom: as large as the view allows, small ones by a whole factor so that pixels stay square. */
  #boxOf(image) {
    const view = this.views[0];
    // An edit of the source's shape has the source's size on the screen, whatever its resolution.
    const shape = ({ naturalWidth, naturalHeight }) => naturalWidth / naturalHeight;
    const like = Math.abs(shape(image) / shape(this.source) - 1) < 0.01 ? this.source : image;
    let scale = Math.min(view.clientWidth / like.naturalWidth, view.clientHeight / like.naturalHeight);
    if (scale >= PIXELS_FROM) scale = Math.floor(scale);
    return { width: like.naturalWidth * scale, height: like.naturalHeight * scale };
  }

  #listen(view) {
    const shareAt = (event) => {
      const image = this.source.getBoundingClientRect();
      const [here, first] = [view.getBoundingClientRect(), this.views[0].getBoundingClientRect()];
      return {
        x: clamp((event.clientX - here.left + first.left - image.left) / image.width, 0, 1),
        y: clamp((event.clientY - here.top + first.top - image.top) / image.height, 0, 1),
      };
    };
    view.addEventListener("wheel", (event) => {
      if (!this.ready) return;
      event.preventDefault();
      this.zoom(Math.exp(-clamp(event.deltaY, -100, 100) / 300), shareAt(event));
    }, { passive: false });
    view.addEventListener("pointerdown", (event) => {
      if (!this.ready || event.button !== 0) return;
      view.setPointerCapture(event.pointerId);
      if (this.factor === 1) this.flip(true, true);
    });
    view.addEventListener("pointermove", (event) => {
      if (!view.hasPointerCapture(event.pointerId) || this.factor === 1) return;
      const { width, height } = this.source.getBoundingClientRect();
      this.x -= event.movementX / width;
      this.y -= event.movementY / height;
      this.#place();
    });
    for (const end of ["pointerup", "pointercancel"]) view.addEventListener(end, () => this.flip(this.toggled));
    view.addEventListener("dblclick", () => this.fit());
  }
}

/** Where an image of some length begins in a view of some length, so that `share` of it is in the middle if it can be. */
function place(view, length, share) {
  return length <= view ? (view - length) / 2 : clamp(view / 2 - share * length, view - length, 0);
}
