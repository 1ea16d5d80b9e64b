/* Points on a canvas, by WebGL; where a browser has none, by plain drawing, which is slower. */
"use strict";

const FRAME = 40; /* Milliseconds, while the map moves. */
R.Scatter = class {
  /* points: Float32Array of x, y in [-1, 1]; colours: Uint8Array of r, g, b, a. */
  constructor(canvas, points) {
    this.canvas = canvas;
    this.points = points;
    this.count = points.length / 2;
    this.colours = new Uint8Array(4 * this.count);
    this.reset();
    this.gl = canvas.getContext("webgl", { antialias: false, preserveDrawingBuffer: true });
    if (this.gl) this.prepare();
    else this.plain = canvas.getContext("2d");
    this.index();
  }

  reset() {
    this.centre = [0, 0];
    this.zoom = 0.94;
  }

  prepare() {
    const gl = this.gl;
    const shader = (type, text) => {
      const made = gl.createShader(type);
      gl.shaderSource(made, text);
      gl.compileShader(made);
      return made;
    };
    const program = gl.createProgram();
    gl.attachShader(program, shader(gl.VERTEX_SHADER, `
      attribute vec2 point; attribute vec4 colour; uniform vec2 centre, scale; uniform float size;
      varying vec4 shade;
      void main() { gl_Position = vec4((point - centre) * scale, 0.0, 1.0); gl_PointSize = size; shade = colour; }`));
    gl.attachShader(program, shader(gl.FRAGMENT_SHADER, `
      precision mediump float; varying vec4 shade;
      void main() {
        vec2 d = gl_PointCoord - 0.5;
        if (dot(d, d) > 0.25) discard;
        gl_FragColor = vec4(shade.rgb * shade.a, shade.a);
      }`));
    gl.linkProgram(program);
    gl.useProgram(program);
    this.uniforms = Object.fromEntries(["centre", "scale", "size"].map((n) => [n, gl.getUniformLocation(program, n)]));
    this.buffers = {};
    const attribute = (name, size, type, normalised) => {
      const at = gl.getAttribLocation(program, name);
      this.buffers[name] = gl.createBuffer();
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, size, type, normalised, 0, 0);
    };
    attribute("point", 2, gl.FLOAT, false);
    gl.bufferData(gl.ARRAY_BUFFER, this.points, gl.STATIC_DRAW);
    attribute("colour", 4, gl.UNSIGNED_BYTE, true);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  /* colour(i) gives r, g, b, a of a point, 0 to 255. */
  paint(colour) {
    for (let i = 0; i < this.count; i++) this.colours.set(colour(i), 4 * i);
    if (this.gl) {
      this.gl.bindBuffer(this.gl.ARRAY_BUFFER, this.buffers.colour);
      this.gl.bufferData(this.gl.ARRAY_BUFFER, this.colours, this.gl.STATIC_DRAW);
    }
    this.draw();
  }

  /* Pixels a unit of the map has, in both directions. */
  scale() {
    return (this.zoom * Math.min(this.canvas.clientWidth, this.canvas.clientHeight)) / 2;
  }

  toScreen(x, y) {
    const s = this.scale();
    return [
      this.canvas.clientWidth / 2 + (x - this.centre[0]) * s,
      this.canvas.clientHeight / 2 - (y - this.centre[1]) * s,
    ];
  }

  toMap(px, py) {
    const s = this.scale();
    return [
      this.centre[0] + (px - this.canvas.clientWidth / 2) / s,
      this.centre[1] - (py - this.canvas.clientHeight / 2) / s,
    ];
  }

  /* Small where there are many; larger the closer one looks. */
  size() {
    const base = this.count > 200000 ? 1.2 : this.count > 20000 ? 2 : 4;
    return Math.min(14, base * Math.sqrt(Math.max(1, this.zoom)));
  }

  /* Draw soon, as many points as a frame can take; and all of them, once nothing moves. */
  move() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.draw(this.affordable);
    });
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.draw(), 150);
  }

  /* Draw the first points, which are a fair sample: ids, by which they are ordered, are hashes. */
  draw(count = this.count) {
    const start = performance.now();
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round(this.canvas.clientWidth * ratio);
    const height = Math.round(this.canvas.clientHeight * ratio);
    if (!width || !height) return;
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    const s = this.scale() * ratio;
    if (this.gl) this.drawByShader(count, ratio, width, height, s);
    else this.drawPlainly(count, ratio);
    const share = FRAME / Math.max(performance.now() - start, 1);
    if (count === this.count) this.affordable = Math.ceil(count * Math.min(1, share));
  }

  drawByShader(count, ratio, width, height, s) {
    const gl = this.gl;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.uniform2f(this.uniforms.centre, ...this.centre);
    gl.uniform2f(this.uniforms.scale, (2 * s) / width, (2 * s) / height);
    gl.uniform1f(this.uniforms.size, this.size() * ratio);
    gl.drawArrays(gl.POINTS, 0, count);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits for it
  }

  drawPlainly(count, ratio) {
    const size = this.size() * ratio;
    this.plain.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (let i = 0; i < count; i++) {
      const [r, g, b, a] = this.colours.subarray(4 * i, 4 * i + 4);
      const [x, y] = this.toScreen(this.points[2 * i], this.points[2 * i + 1]);
      this.plain.fillStyle = `rgba(${r},${g},${b},${a / 255})`;
      this.plain.fillRect(x * ratio - size / 2, y * ratio - size / 2, size, size);
    }
  }

  /* Rows by the cell of a grid that they lie in, so that the nearest is found at once. */
  index() {
    this.cells = Math.max(1, Math.min(512, Math.round(Math.sqrt(this.count / 2))));
    const cellOf = new Int32Array(this.count);
    this.starts = new Int32Array(this.cells * this.cells + 1);
    for (let i = 0; i < this.count; i++) {
      cellOf[i] = this.cell(this.points[2 * i]) + this.cells * this.cell(this.points[2 * i + 1]);
      this.starts[cellOf[i] + 1]++;
    }
    for (let c = 0; c < this.cells * this.cells; c++) this.starts[c + 1] += this.starts[c];
    const next = this.starts.slice();
    this.members = new Int32Array(this.count);
    for (let i = 0; i < this.count; i++) this.members[next[cellOf[i]]++] = i;
  }

  cell(value) {
    return Math.max(0, Math.min(this.cells - 1, Math.floor(((value + 1) / 2) * this.cells)));
  }

  /* Calls visit(row) for each point whose cell meets the box. */
  inBox([x0, y0], [x1, y1], visit) {
    for (let v = this.cell(y0); v <= this.cell(y1); v++) {
      const from = this.starts[v * this.cells + this.cell(x0)];
      const to = this.starts[v * this.cells + this.cell(x1) + 1];
      for (let m = from; m < to; m++) visit(this.members[m]);
    }
  }

  /* The row nearest to a place on the screen, within some pixels; -1 if there is none. */
  nearest(px, py, within = 12) {
    const [x, y] = this.toMap(px, py);
    const reach = within / this.scale();
    let best = -1;
    let least = reach * reach;
    this.inBox([x - reach, y - reach], [x + reach, y + reach], (i) => {
      const dx = this.points[2 * i] - x;
      const dy = this.points[2 * i + 1] - y;
      const distance = dx * dx + dy * dy;
      if (distance <= least) {
        least = distance;
        best = i;
      }
    });
    return best;
  }

  /* Rows inside a polygon of places on the screen. */
  inside(corners) {
    const polygon = corners.map(([px, py]) => this.toMap(px, py));
    const xs = polygon.map((p) => p[0]);
    const ys = polygon.map((p) => p[1]);
    const rows = [];
    this.inBox([Math.min(...xs), Math.min(...ys)], [Math.max(...xs), Math.max(...ys)], (i) => {
      const x = this.points[2 * i];
      const y = this.points[2 * i + 1];
      let within = false;
      for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
        const [ax, ay] = polygon[a];
        const [bx, by] = polygon[b];
        if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) within = !within;
      }
      if (within) rows.push(i);
    });
    return rows.sort((a, b) => a - b);
  }
};
