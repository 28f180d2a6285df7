"use strict";
// The point cloud with cameras, in plain WebGL: nothing is loaded, so the page works from disk and by e-mail.

const scene = JSON.parse(document.getElementById("scene").textContent);

function bytes(text) {
  const raw = atob(text), array = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) array[i] = raw.charCodeAt(i);
  return array;
}

// 4x4 matrices, column by column as WebGL wants them.
function product(a, b) {
  const out = new Float32Array(16);
  for (let c = 0; c < 4; c++)
    for (let r = 0; r < 4; r++)
      for (let k = 0; k < 4; k++) out[c * 4 + r] += a[k * 4 + r] * b[c * 4 + k];
  return out;
}
function frustum(tanX, tanY, near, far) {
  const f = 1 / (near - far);
  return new Float32Array([1 / tanX, 0, 0, 0, 0, 1 / tanY, 0, 0, 0, 0, (near + far) * f, -1, 0, 0, 2 * near * far * f, 0]);
}
function rigid(rows, eye) { // rows: the viewer's right, up and back axes
  const t = rows.map(row => -(row[0] * eye[0] + row[1] * eye[1] + row[2] * eye[2]));
  const [x, y, z] = rows;
  return new Float32Array([x[0], y[0], z[0], 0, x[1], y[1], z[1], 0, x[2], y[2], z[2], 0, t[0], t[1], t[2], 1]);
}

function frameColour(share) { // as in the drawings: teal, violet, amber
  const stops = [[64, 224, 208], [150, 120, 255], [255, 176, 60]];
  const at = Math.min(Math.max(share, 0), 1) * 2, low = Math.min(Math.floor(at), 1);
  return stops[low].map((value, i) => (value + (stops[low + 1][i] - value) * (at - low)) / 255);
}

const POINTS = {
  vertex: `attribute vec3 place; attribute vec3 colour; uniform mat4 matrix; uniform vec3 low, size; uniform float pixels, lift;
    varying vec3 shade;
    void main() {
      gl_Position = matrix * vec4(low + size * place, 1.0);
      gl_PointSize = clamp(pixels / gl_Position.w, 1.5, 30.0);
      shade = mix(colour, vec3(1.0), lift) * (0.62 + 0.38 / (1.0 + 0.05 * gl_Position.w * gl_Position.w));
    }`,
  fragment: `precision mediump float; varying vec3 shade;
    void main() { vec2 d = gl_PointCoord - 0.5; if (dot(d, d) > 0.25) discard; gl_FragColor = vec4(shade, 1.0); }`,
};
const LINES = {
  vertex: `attribute vec3 place; attribute vec4 colour; uniform mat4 matrix; varying vec4 shade;
    void main() { gl_Position = matrix * vec4(place, 1.0); shade = colour; }`,
  fragment: `precision mediump float; varying vec4 shade; void main() { gl_FragColor = vec4(shade.rgb * shade.a, shade.a); }`,
};

class Viewer {
  constructor(canvas) {
    this.canvas = canvas;
    this.gl = canvas.getContext("webgl", { antialias: true, alpha: false });
    if (!this.gl) throw new Error("this browser shows no WebGL");
    this.frame = 0;
    this.pointScale = 1;
    this.through = false;
    this.showCameras = this.showMovers = true;
    this.reset();
    this.load();
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  reset() {
    this.target = scene.view.target.slice();
    this.distance = scene.view.distance;
    this.yaw = scene.view.yaw;
    this.pitch = scene.view.pitch;
    this.draw();
  }

  program(source) {
    const gl = this.gl, program = gl.createProgram();
    for (const [kind, text] of [[gl.VERTEX_SHADER, source.vertex], [gl.FRAGMENT_SHADER, source.fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, text);
      gl.compileShader(shader);
      if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader));
      gl.attachShader(program, shader);
    }
    gl.bindAttribLocation(program, 0, "place");
    gl.bindAttribLocation(program, 1, "colour");
    gl.linkProgram(program);
    return program;
  }

  buffer(data) {
    const gl = this.gl, made = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    return made;
  }

  load() {
    this.pointProgram = this.program(POINTS);
    this.lineProgram = this.program(LINES);
    this.still = { place: this.buffer(bytes(scene.position)), colour: this.buffer(bytes(scene.colour)) };
    this.movers = { place: this.buffer(bytes(scene.movingPosition)), colour: this.buffer(bytes(scene.movingColour)) };
    this.trail = new Uint16Array(bytes(scene.trailPosition).buffer);
    this.trailSeen = bytes(scene.trailSeen);
    this.lines = this.gl.createBuffer();
    // About a hundred frusta can be told apart; the path shows the rest.
    const count = scene.cameras.length, every = Math.max(1, Math.ceil(count / 100));
    this.shownCameras = scene.cameras.map((camera, i) => (camera && i % every === 0 ? i : -1)).filter(i => i >= 0);
    const centres = scene.cameras.filter(Boolean).map(camera => camera.slice(9, 12));
    const path = centres.slice(1).reduce((sum, c, i) => sum + Math.hypot(...c.map((v, k) => v - centres[i][k])), 0);
    const size = path > 1e-6 ? Math.min(0.16, Math.max(0.05, (2.2 * path) / centres.length)) : 0.5; // a camera at rest
    this.frustumSize = size * Math.min(1, scene.view.distance / 2);
  }

  // The viewer's axes, its place and its openings.
  eye(aspect) {
    const camera = scene.cameras[this.frame];
    if (this.through && camera) {
      const r = camera, rows = [[r[0], r[3], r[6]], [-r[1], -r[4], -r[7]], [-r[2], -r[5], -r[8]]];
      const wide = Math.max(camera[12], camera[13] * aspect) * 1.04;
      return { view: rigid(rows, camera.slice(9, 12)), tanX: wide, tanY: wide / aspect, reach: 1 };
    }
    const cy = Math.cos(this.yaw), sy = Math.sin(this.yaw), cp = Math.cos(this.pitch), sp = Math.sin(this.pitch);
    const back = [cp * sy, sp, cp * cy], right = [cy, 0, -sy], up = [-sp * sy, cp, -sp * cy];
    const place = this.target.map((value, i) => value + this.distance * back[i]);
    const tanY = Math.tan(0.42);
    return { view: rigid([right, up, back], place), tanX: tanY * aspect, tanY, reach: this.distance };
  }

  draw() {
    if (this.pending) return;
    this.pending = requestAnimationFrame(() => { this.pending = 0; this.paint(); });
  }

  paint() {
    const gl = this.gl, canvas = this.canvas, ratio = Math.min(window.devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * ratio), height = Math.round(canvas.clientHeight * ratio);
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    gl.viewport(0, 0, width, height);
    gl.clearColor(0.035, 0.043, 0.059, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    const eye = this.eye(width / height);
    const matrix = product(frustum(eye.tanX, eye.tanY, 0.004 * eye.reach + 0.002, 60 * eye.reach + 60), eye.view);
    this.paintPoints(matrix, (this.pointScale * 0.011 * height) / eye.tanY);
    this.paintLines(matrix);
  }

  paintPoints(matrix, pixels) {
    const gl = this.gl, program = this.pointProgram, at = name => gl.getUniformLocation(program, name);
    gl.useProgram(program);
    gl.uniformMatrix4fv(at("matrix"), false, matrix);
    gl.uniform3fv(at("low"), scene.low);
    gl.uniform3fv(at("size"), scene.size);
    gl.uniform1f(at("pixels"), pixels);
    gl.uniform1f(at("lift"), 0);
    this.bindPoints(this.still);
    gl.drawArrays(gl.POINTS, 0, scene.count);
    if (!this.showMovers || !scene.movingFrames.length) return;
    let step = 0;
    scene.movingFrames.forEach((frame, i) => { if (frame <= this.frame) step = i; });
    gl.uniform1f(at("lift"), 0.12);
    gl.uniform1f(at("pixels"), pixels * 1.15);
    this.bindPoints(this.movers);
    gl.drawArrays(gl.POINTS, scene.movingOffsets[step], scene.movingOffsets[step + 1] - scene.movingOffsets[step]);
  }

  bindPoints(cloud) {
    const gl = this.gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, cloud.place);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 3, gl.UNSIGNED_SHORT, true, 6, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, cloud.colour);
    gl.enableVertexAttribArray(1);
    gl.vertexAttribPointer(1, 3, gl.UNSIGNED_BYTE, true, 3, 0);
  }

  paintLines(matrix) {
    const lines = [], faces = [], trails = [], last = Math.max(scene.cameras.length - 1, 1);
    if (this.showCameras) {
      let before = -1;
      scene.cameras.forEach((camera, i) => {
        if (!camera) return;
        if (before >= 0) segment(lines, scene.cameras[before].slice(9, 12), camera.slice(9, 12), frameColour(i / last), 0.9);
        before = i;
      });
      if (!this.through)
        for (const i of this.shownCameras) frame(lines, null, scene.cameras[i], this.frustumSize, frameColour(i / last), 0.55);
    }
    const now = scene.cameras[this.frame];
    if (now && !this.through) frame(lines, faces, now, this.frustumSize * 1.9, [1, 1, 1], 1);
    if (this.showMovers) this.addTrails(trails);
    const gl = this.gl;
    gl.useProgram(this.lineProgram);
    gl.uniformMatrix4fv(gl.getUniformLocation(this.lineProgram, "matrix"), false, matrix);
    for (const [kind, data] of [[gl.LINES, lines], [gl.TRIANGLES, faces], [gl.LINES, trails]]) {
      if (data === trails) gl.disable(gl.DEPTH_TEST); // the points that a trail ends in would hide it
      gl.bindBuffer(gl.ARRAY_BUFFER, this.lines);
      gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(data), gl.DYNAMIC_DRAW);
      gl.enableVertexAttribArray(0);
      gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 28, 0);
      gl.enableVertexAttribArray(1);
      gl.vertexAttribPointer(1, 4, gl.FLOAT, false, 28, 12);
      gl.drawArrays(kind, 0, data.length / 7);
    }
  }

  // The last stretch of every moving track up to the current frame, fading into the past.
  addTrails(lines) {
    const steps = scene.trailFrames.length;
    let now = -1;
    scene.trailFrames.forEach((f, s) => { if (f <= this.frame) now = s; });
    const length = Math.max(4, Math.round(steps / 5));
    const place = (k, s) => [0, 1, 2].map(i => scene.low[i] + (scene.size[i] * this.trail[(k * steps + s) * 3 + i]) / 65535);
    for (let k = 0; k < scene.trailCount; k++)
      for (let s = Math.max(1, now - length); s <= now; s++)
        if (this.trailSeen[k * steps + s] && this.trailSeen[k * steps + s - 1])
          segment(lines, place(k, s - 1), place(k, s), [1, 0.72, 0.45], 0.1 + 0.7 * (1 - (now - s) / length));
  }

  listen() {
    const canvas = this.canvas, touches = new Map();
    const spread = () => { const [a, b] = [...touches.values()]; return Math.hypot(a.x - b.x, a.y - b.y); };
    canvas.addEventListener("contextmenu", event => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("pointerdown", event => {
      canvas.setPointerCapture(event.pointerId);
      touches.set(event.pointerId, { x: event.clientX, y: event.clientY });
      document.getElementById("hint").style.opacity = 0;
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, event => touches.delete(event.pointerId));
    canvas.addEventListener("pointermove", event => {
      const before = touches.get(event.pointerId);
      if (!before) return;
      const dx = event.clientX - before.x, dy = event.clientY - before.y, gap = touches.size === 2 ? spread() : 0;
      touches.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (touches.size === 2) { this.zoom(gap / Math.max(spread(), 1)); this.pan(dx / 2, dy / 2); }
      else if (event.buttons & 2 || event.shiftKey) this.pan(dx, dy);
      else this.turn(dx, dy);
    });
    canvas.addEventListener("wheel", event => { event.preventDefault(); this.zoom(Math.exp(Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 120) * 0.0014)); }, { passive: false });
  }

  turn(dx, dy) {
    this.yaw -= dx * 0.006;
    this.pitch = Math.min(1.55, Math.max(-1.55, this.pitch + dy * 0.006));
    this.draw();
  }

  zoom(factor) {
    this.distance = Math.min(60, Math.max(0.02, this.distance * factor));
    this.draw();
  }

  pan(dx, dy) {
    const unit = (2 * this.distance * Math.tan(0.42)) / this.canvas.clientHeight;
    const cy = Math.cos(this.yaw), sy = Math.sin(this.yaw), cp = Math.cos(this.pitch), sp = Math.sin(this.pitch);
    const right = [cy, 0, -sy], up = [-sp * sy, cp, -sp * cy];
    this.target = this.target.map((value, i) => value - unit * (dx * right[i] - dy * up[i]));
    this.draw();
  }
}

function segment(lines, a, b, colour, alpha) {
  lines.push(...a, ...colour, alpha, ...b, ...colour, alpha);
}

// A camera as a pyramid of the given depth, with a tick on its upper edge; its picture plane as a faint pane.
function frame(lines, faces, camera, depth, colour, alpha) {
  const at = (x, y, z) => [0, 1, 2].map(i => camera[9 + i] + depth * (camera[3 * i] * x + camera[3 * i + 1] * y + camera[3 * i + 2] * z));
  const tall = 0.75 / Math.max(camera[12], camera[13]), w = camera[12] * tall, h = camera[13] * tall; // wide lenses stay in bounds
  const eye = at(0, 0, 0), corners = [at(-w, -h, 1), at(w, -h, 1), at(w, h, 1), at(-w, h, 1)];
  corners.forEach((corner, i) => {
    segment(lines, eye, corner, colour, alpha);
    segment(lines, corner, corners[(i + 1) % 4], colour, alpha);
  });
  const tip = at(0, -h * 1.35, 1);
  segment(lines, at(-w * 0.3, -h, 1), tip, colour, alpha);
  segment(lines, at(w * 0.3, -h, 1), tip, colour, alpha);
  if (faces) for (const i of [0, 1, 2, 0, 2, 3]) faces.push(...corners[i], ...colour, 0.16);
}

function startViewer() {
  const get = id => document.getElementById(id), slider = get("time");
  const viewer = new Viewer(get("view"));
  const show = index => {
    viewer.frame = index;
    slider.value = index;
    get("label").textContent = `frame ${index} · ${scene.times[index].toFixed(2)} s` + (scene.cameras[index] ? "" : " · no camera");
    const marks = [...document.querySelectorAll(".when")];
    const near = marks.reduce((best, mark) => (Math.abs(mark.dataset.frame - index) < Math.abs(best.dataset.frame - index) ? mark : best), marks[0]);
    marks.forEach(mark => mark.classList.toggle("now", mark === near));
    viewer.draw();
  };
  slider.max = scene.cameras.length - 1;
  slider.addEventListener("input", () => show(+slider.value));
  get("size").addEventListener("input", event => { viewer.pointScale = 2 ** event.target.value; viewer.draw(); });
  get("through").addEventListener("change", event => { viewer.through = event.target.checked; viewer.draw(); });
  get("showcams").addEventListener("change", event => { viewer.showCameras = event.target.checked; viewer.draw(); });
  get("showmovers").addEventListener("change", event => { viewer.showMovers = event.target.checked; viewer.draw(); });
  get("moverswitch").hidden = !scene.movingColour && !scene.trailCount;
  let playing = 0;
  const toggle = () => {
    get("play").textContent = playing ? "▶" : "❚❚";
    if (playing) { clearInterval(playing); playing = 0; return; }
    const count = scene.cameras.length, length = scene.times[count - 1] - scene.times[0];
    // Photos carry no time: then, and where the clip is slow or fast, between 4 and 30 frames a second.
    const pause = Math.min(250, Math.max(33, (1000 * length) / Math.max(count - 1, 1)));
    playing = setInterval(() => show((viewer.frame + 1) % count), pause);
  };
  get("play").addEventListener("click", toggle);
  document.addEventListener("keydown", event => {
    if (event.target.tagName === "INPUT" || document.querySelector("dialog[open]")) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) show((viewer.frame + step + scene.cameras.length) % scene.cameras.length);
    if (event.key === " " && event.target.tagName !== "BUTTON") { event.preventDefault(); toggle(); }
  });
  document.querySelectorAll(".when").forEach(mark => mark.addEventListener("click", () => show(+mark.dataset.frame)));
  show(Math.min(+new URLSearchParams(location.search).get("frame") || 0, scene.cameras.length - 1));
}

function startPictures() {
  const large = document.getElementById("large"), pictures = [...document.querySelectorAll(".strips button")];
  let current = 0;
  const open = index => {
    current = (index + pictures.length) % pictures.length;
    const picture = pictures[current].querySelector("img");
    large.querySelector("img").src = picture.src;
    large.querySelector("p").textContent = picture.alt;
    if (!large.open) large.showModal();
  };
  pictures.forEach((button, index) => button.addEventListener("click", () => open(index)));
  large.addEventListener("click", () => large.close());
  large.addEventListener("keydown", event => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) open(current + step);
  });
}

startPictures();
if (scene) {
  try { startViewer(); } catch (error) {
    document.getElementById("stage").textContent = `The 3D view needs WebGL (${error.message}); the pictures below need nothing.`;
  }
}
