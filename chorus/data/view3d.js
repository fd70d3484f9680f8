// The interactive view of a distribution: shells of phi by ray casting through a 3D texture, the body, and cameras around it.
// WebGL2 alone, no library, no network. chorusView(root, data) draws into the elements that the page has for it.
"use strict";

const CHORUS_MESH_VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in float shade;
uniform mat4 viewProjection; out vec3 n; out float s; out vec3 world;
void main() { n = normal; s = shade; world = position; gl_Position = viewProjection * vec4(position, 1.0); }`;

const CHORUS_MESH_FRAGMENT = `#version 300 es
precision highp float;
in vec3 n; in float s; in vec3 world;
uniform vec3 colour, light, eye; out vec4 seen;
void main() {
  vec3 v = normalize(eye - world), m = normalize(n);
  if (dot(m, v) < 0.0) m = -m;
  float wrapped = 0.5 + 0.5 * dot(m, light);
  float lit = (0.42 + 0.62 * wrapped) * (1.0 - 0.55 * s) + 0.04 * dot(m, v);
  seen = vec4(clamp(colour * lit, 0.0, 1.0), 1.0);
}`;

const CHORUS_VOLUME_VERTEX = `#version 300 es
in vec2 corner; out vec2 place;
void main() { place = corner; gl_Position = vec4(corner, 0.0, 1.0); }`;

// A ray goes through the box that holds the outermost shell. Wherever phi crosses a level, a surface lies: the crossing is found
// between two samples, lit by phi's gradient, and laid over what is behind it, as chorus.figures.rays does.
const CHORUS_VOLUME_FRAGMENT = `#version 300 es
precision highp float; precision highp sampler3D;
in vec2 place; out vec4 seen;
uniform sampler3D phi; uniform sampler2D behind, depth;
uniform mat4 toWorld; uniform vec3 eye, light, low, high;
uniform float extent, stride, cell;
uniform int count; uniform float levels[4]; uniform vec3 colours[4]; uniform float opacities[4];
float at(vec3 p) { return texture(phi, p / extent + 0.5).r; }
vec3 unproject(float z) { vec4 p = toWorld * vec4(place, z, 1.0); return p.xyz / p.w; }
vec3 sum = vec3(0.0); float left = 1.0;
void surface(int i, vec3 p, vec3 ray) {
  vec3 g = vec3(at(p + vec3(cell, 0, 0)) - at(p - vec3(cell, 0, 0)), at(p + vec3(0, cell, 0)) - at(p - vec3(0, cell, 0)),
                at(p + vec3(0, 0, cell)) - at(p - vec3(0, 0, cell)));
  vec3 m = -g / max(length(g), 1e-9);
  float facing = -dot(m, ray);
  if (facing < 0.0) m = -m;
  facing = abs(facing);
  float wrapped = 0.5 + 0.5 * dot(m, light);
  float lit = (0.42 + 0.62 * wrapped) * 1.02 + 0.16 * pow(max(wrapped, 0.0), 24.0);
  float alpha = min(opacities[i] + 0.45 * pow(1.0 - facing, 2.5), 0.97);
  sum += left * alpha * clamp(colours[i] * lit, 0.0, 1.0);
  left *= 1.0 - alpha;
}
void main() {
  vec2 uv = place * 0.5 + 0.5;
  vec3 ground = texture(behind, uv).rgb;
  vec3 far = unproject(2.0 * texture(depth, uv).r - 1.0), ray = normalize(far - eye);
  vec3 a = (low - eye) / ray, b = (high - eye) / ray, near3 = min(a, b), far3 = max(a, b);
  float t = max(max(near3.x, max(near3.y, near3.z)), 0.0), end = min(min(far3.x, min(far3.y, far3.z)), length(far - eye));
  if (t < end && count > 0) {
    float before = at(eye + t * ray);
    if (before > levels[0]) before = 0.0;  // it enters the grid inside a shell: the shell is closed there
    for (int i = 0; i < 700 && t < end && left > 0.01; i++) {
      float advance = min(stride, end - t), now = at(eye + (t + advance) * ray);
      for (int k = 0; k < 4; k++) {
        if (k >= count) break;
        int j = now > before ? k : count - 1 - k;
        if ((before < levels[j]) != (now < levels[j]))
          surface(j, eye + (t + advance * (levels[j] - before) / (now - before)) * ray, ray);
      }
      before = now; t += max(advance, 1e-5);
    }
  }
  seen = vec4(sum + left * ground, 1.0);
}`;

async function chorusUnpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Type(await new Response(stream).arrayBuffer());
}

// phi on a grid of twice the voxels along an edge, by Catmull-Rom splines along one axis after the other: smooth shells.
function chorusRefine(values, N) {
  const sizes = [N, N, N];
  let from = values;
  for (let axis = 0; axis < 3; axis++) {
    const out = sizes.slice();
    out[axis] *= 2;
    const to = new Float32Array(out[0] * out[1] * out[2]);
    const inner = sizes.slice(0, axis).reduce((p, n) => p * n, 1), n = sizes[axis];
    const outer = sizes.slice(axis + 1).reduce((p, m) => p * m, 1);
    for (let o = 0; o < outer; o++) for (let k = 0; k < n; k++) {
      const row = (d) => (o * n + Math.min(Math.max(k + d, 0), n - 1)) * inner;
      const a = row(-2), b = row(-1), c = row(0), d = row(1), e = row(2), target = (o * 2 * n + 2 * k) * inner;
      for (let i = 0; i < inner; i++) {  // at a quarter of a voxel before and after the centre
        to[target + i] = Math.max(0, -0.0234375 * from[a + i] + 0.2265625 * from[b + i] + 0.8671875 * from[c + i] - 0.0703125 * from[d + i]);
        to[target + inner + i] = Math.max(0, -0.0703125 * from[b + i] + 0.8671875 * from[c + i] + 0.2265625 * from[d + i] - 0.0234375 * from[e + i]);
      }
    }
    from = to;
    sizes[axis] = out[axis];
  }
  return from;
}

function chorusNormals(vertices, faces) {
  const normals = new Float32Array(vertices.length);
  for (let f = 0; f < faces.length; f += 3) {
    const [a, b, c] = [3 * faces[f], 3 * faces[f + 1], 3 * faces[f + 2]];
    const u = [0, 1, 2].map((i) => vertices[b + i] - vertices[a + i]), v = [0, 1, 2].map((i) => vertices[c + i] - vertices[a + i]);
    const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    for (const p of [a, b, c]) for (let i = 0; i < 3; i++) normals[p + i] += n[i];
  }
  for (let p = 0; p < normals.length; p += 3) {
    const length = Math.hypot(normals[p], normals[p + 1], normals[p + 2]) || 1;
    for (let i = 0; i < 3; i++) normals[p + i] /= length;
  }
  return normals;
}

// Matrices are in columns, as WebGL has them.
function chorusProduct(a, b) {
  const out = new Float32Array(16);
  for (let c = 0; c < 4; c++) for (let r = 0; r < 4; r++) for (let k = 0; k < 4; k++) out[4 * c + r] += a[4 * k + r] * b[4 * c + k];
  return out;
}

function chorusCamera(state, aspect) {
  const a = (state.azimuth * Math.PI) / 180, e = (state.elevation * Math.PI) / 180;
  const back = [Math.sin(a) * Math.cos(e), Math.sin(e), Math.cos(a) * Math.cos(e)];
  const right = [Math.cos(a), 0, -Math.sin(a)];
  const up = [0, 1, 2].map((i) => back[(i + 1) % 3] * right[(i + 2) % 3] - back[(i + 2) % 3] * right[(i + 1) % 3]);
  const eye = back.map((b, i) => state.centre[i] + b * state.distance);
  const dot = (u, v) => u[0] * v[0] + u[1] * v[1] + u[2] * v[2];
  const view = new Float32Array([0, 1, 2].flatMap((i) => [right[i], up[i], back[i], 0]).concat([-dot(right, eye), -dot(up, eye), -dot(back, eye), 1]));
  const f = 1 / Math.tan(0.5 * 0.6), near = 0.05, far = 40, x = aspect < 1 ? f : f / aspect, y = aspect < 1 ? f * aspect : f;
  const projection = new Float32Array([x, 0, 0, 0, 0, y, 0, 0, 0, 0, (far + near) / (near - far), -1, 0, 0, (2 * far * near) / (near - far), 0]);
  const A = projection[10], B = projection[14];
  const unproject = new Float32Array([1 / x, 0, 0, 0, 0, 1 / y, 0, 0, 0, 0, 0, 1 / B, 0, 0, -1, A / B]);
  const world = new Float32Array([...right, 0, ...up, 0, ...back, 0, ...eye, 1]);
  return { eye, right, up, back, viewProjection: chorusProduct(projection, view), toWorld: chorusProduct(world, unproject) };
}

function chorusPyramids(directions, radius, size) {
  const vertices = [], faces = [], cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
  for (let k = 0; k < directions.length; k += 3) {
    const d = Array.from(directions.slice(k, k + 3)), right = cross(Math.abs(d[1]) < 0.95 ? [0, 1, 0] : [0, 0, 1], d);
    const length = Math.hypot(...right), r = right.map((x) => x / length), u = cross(d, r), first = vertices.length / 3;
    vertices.push(...d.map((x) => x * (radius + 1.6 * size)));
    for (const [a, b] of [[-1, -1], [1, -1], [1, 1], [-1, 1]]) vertices.push(...d.map((x, i) => radius * x + size * (a * r[i] + 0.75 * b * u[i])));
    for (const face of [[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 1], [1, 3, 2], [1, 4, 3]]) faces.push(...face.map((i) => first + i));
  }
  // Every triangle gets corners of its own, so that its edges stay sharp.
  const flat = new Float32Array(faces.flatMap((i) => vertices.slice(3 * i, 3 * i + 3)));
  return { vertices: flat, faces: Uint32Array.from({ length: flat.length / 3 }, (_, i) => i) };
}

async function chorusView(root, data) {
  const find = (name) => root.querySelector(`[data-view="${name}"]`), canvas = find("canvas");
  const gl = canvas.getContext("webgl2", { antialias: false, preserveDrawingBuffer: true });
  if (!gl) {
    find("message").textContent = "This browser has no WebGL2: the figures below show the same from fixed sides.";
    find("message").hidden = false;
    return null;
  }
  const program = (vertex, fragment) => {
    const made = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(made, shader);
    }
    ["position", "normal", "shade"].forEach((name, i) => gl.bindAttribLocation(made, i, name));
    gl.linkProgram(made);
    if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made) || "shader");
    const at = {};
    for (let i = 0; i < gl.getProgramParameter(made, gl.ACTIVE_UNIFORMS); i++) {
      const name = gl.getActiveUniform(made, i).name;
      at[name.replace("[0]", "")] = gl.getUniformLocation(made, name);
    }
    return { made, at };
  };
  const meshes = program(CHORUS_MESH_VERTEX, CHORUS_MESH_FRAGMENT), volumes = program(CHORUS_VOLUME_VERTEX, CHORUS_VOLUME_FRAGMENT);

  const mesh = (vertices, faces, shade) => {
    const array = gl.createVertexArray();
    gl.bindVertexArray(array);
    [[vertices, 3], [chorusNormals(vertices, faces), 3], [shade || new Float32Array(vertices.length / 3), 1]].forEach(([values, size], i) => {
      gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(i);
      gl.vertexAttribPointer(i, size, gl.FLOAT, false, 0, 0);
    });
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    gl.bindVertexArray(null);
    return { array, count: faces.length };
  };

  const N = data.resolution, top = data.top, extent = data.extent;
  const faces = await chorusUnpack(data.faces, Uint32Array);
  const scenes = [];
  for (const one of data.poses) {
    const coarse = Float32Array.from(await chorusUnpack(one.phi, Uint16Array), (v) => (v / 65535) * top);
    const fine = N <= 64 ? chorusRefine(coarse, N) : coarse, M = N <= 64 ? 2 * N : N;
    const vertices = Float32Array.from(await chorusUnpack(one.vertices, Int16Array), (v) => (v / 32767) * data.reach);
    const shade = one.shade ? Float32Array.from(await chorusUnpack(one.shade, Uint8Array), (v) => v / 255) : null;
    const texture = gl.createTexture();
    gl.bindTexture(gl.TEXTURE_3D, texture);
    gl.texImage3D(gl.TEXTURE_3D, 0, gl.R16F, M, M, M, 0, gl.RED, gl.FLOAT, fine);
    for (const [name, value] of [[gl.TEXTURE_MIN_FILTER, gl.LINEAR], [gl.TEXTURE_MAG_FILTER, gl.LINEAR], [gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE], [gl.TEXTURE_WRAP_R, gl.CLAMP_TO_EDGE]])
      gl.texParameteri(gl.TEXTURE_3D, name, value);
    scenes.push({ name: one.name, fine, M, texture, body: mesh(vertices, faces, shade) });
  }
  const around = chorusPyramids(data.cameras ? await chorusUnpack(data.cameras, Float32Array) : [], data.radius, 0.045);
  const cameras = around.faces.length ? mesh(around.vertices, around.faces) : null;
  const corners = gl.createVertexArray();
  gl.bindVertexArray(corners);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 3, -1, -1, 3]), gl.STATIC_DRAW);
  const corner = gl.getAttribLocation(volumes.made, "corner");
  gl.enableVertexAttribArray(corner);
  gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
  gl.bindVertexArray(null);
  const target = { framebuffer: gl.createFramebuffer(), colour: gl.createTexture(), depth: gl.createTexture(), size: "" };

  const home = { azimuth: 30, elevation: 12, distance: data.distance, centre: data.centre.slice() };
  const state = { ...home, centre: home.centre.slice(), pose: 0, threshold: data.threshold, shells: 4, body: true, cameras: false };
  let box = null, slow = 1, wanted = false, moving = 0, frames = 0;

  function levels() {
    const n = state.shells;
    return Array.from({ length: n }, (_, i) => state.threshold + ((top - state.threshold) * i) / n);
  }
  function find_box() {  // of what is above the threshold, with a cell to spare, and its volume
    const { fine, M } = scenes[state.pose], low = [M, M, M], high = [-1, -1, -1];
    let inside = 0, i = 0;
    for (let z = 0; z < M; z++) for (let y = 0; y < M; y++) for (let x = 0; x < M; x++, i++)
      if (fine[i] >= state.threshold) {
        inside++;
        if (x < low[0]) low[0] = x; if (y < low[1]) low[1] = y; if (z < low[2]) low[2] = z;
        if (x > high[0]) high[0] = x; if (y > high[1]) high[1] = y; if (z > high[2]) high[2] = z;
      }
    const h = extent / M, edge = (v) => Math.min(Math.max(v, 0), M) * h - extent / 2;
    box = { empty: !inside, low: low.map((v) => edge(v - 1)), high: high.map((v) => edge(v + 2)), litres: 1000 * inside * h ** 3 };
  }
  function prepare(width, height) {
    if (target.size !== `${width}x${height}`) {
      target.size = `${width}x${height}`;
      for (const [texture, inner, format, type] of [[target.colour, gl.RGBA8, gl.RGBA, gl.UNSIGNED_BYTE], [target.depth, gl.DEPTH_COMPONENT24, gl.DEPTH_COMPONENT, gl.UNSIGNED_INT]]) {
        gl.bindTexture(gl.TEXTURE_2D, texture);
        gl.texImage2D(gl.TEXTURE_2D, 0, inner, width, height, 0, format, type, null);
        for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
      }
      gl.bindFramebuffer(gl.FRAMEBUFFER, target.framebuffer);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, target.colour, 0);
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.DEPTH_ATTACHMENT, gl.TEXTURE_2D, target.depth, 0);
    }
  }
  function draw(scale) {
    const start = performance.now(), ratio = Math.min(window.devicePixelRatio || 1, 2) * scale;
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio)), height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    prepare(width, height);
    const scene = scenes[state.pose], view = chorusCamera(state, width / height);
    const toLight = [-0.45, 0.75, 0.6].map((v) => v / Math.hypot(0.45, 0.75, 0.6));
    const light = [0, 1, 2].map((i) => toLight[0] * view.right[i] + toLight[1] * view.up[i] + toLight[2] * view.back[i]);
    gl.bindFramebuffer(gl.FRAMEBUFFER, target.framebuffer);
    gl.viewport(0, 0, width, height);
    gl.clearColor(1, 1, 1, 1);
    gl.enable(gl.DEPTH_TEST);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(meshes.made);
    gl.uniformMatrix4fv(meshes.at.viewProjection, false, view.viewProjection);
    gl.uniform3fv(meshes.at.light, light);
    gl.uniform3fv(meshes.at.eye, view.eye);
    for (const [shown, drawn, colour] of [[state.body, scene.body, data.skin], [state.cameras && cameras, cameras, [0.16, 0.33, 0.62]]]) {
      if (!shown) continue;
      gl.uniform3fv(meshes.at.colour, colour);
      gl.bindVertexArray(drawn.array);
      gl.drawElements(gl.TRIANGLES, drawn.count, gl.UNSIGNED_INT, 0);
    }
    gl.bindFramebuffer(gl.FRAMEBUFFER, null);
    gl.viewport(0, 0, width, height);
    gl.disable(gl.DEPTH_TEST);
    gl.useProgram(volumes.made);
    [[gl.TEXTURE_3D, scene.texture, "phi"], [gl.TEXTURE_2D, target.colour, "behind"], [gl.TEXTURE_2D, target.depth, "depth"]].forEach(([kind, texture, name], i) => {
      gl.activeTexture(gl.TEXTURE0 + i);
      gl.bindTexture(kind, texture);
      gl.uniform1i(volumes.at[name], i);
    });
    gl.activeTexture(gl.TEXTURE0);
    const at = levels(), palette = data.palettes[state.shells];
    gl.uniformMatrix4fv(volumes.at.toWorld, false, view.toWorld);
    for (const [name, value] of [["eye", view.eye], ["light", light], ["low", box.low], ["high", box.high]]) gl.uniform3fv(volumes.at[name], value);
    gl.uniform1f(volumes.at.extent, extent);
    gl.uniform1f(volumes.at.stride, (0.6 * extent) / scene.M);
    gl.uniform1f(volumes.at.cell, extent / scene.M);
    gl.uniform1i(volumes.at.count, box.empty ? 0 : at.length);
    gl.uniform1fv(volumes.at.levels, [...at, 9, 9, 9].slice(0, 4));
    gl.uniform3fv(volumes.at.colours, [...palette.colours.flat(), ...new Array(9).fill(0)].slice(0, 12));
    gl.uniform1fv(volumes.at.opacities, [...palette.opacities, 0, 0, 0].slice(0, 4));
    gl.bindVertexArray(corners);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.bindVertexArray(null);
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));  // wait, so that the time is that of the picture
    frames++;
    root.dataset.frames = frames;
    return performance.now() - start;
  }
  function frame() {
    wanted = false;
    const took = draw(moving ? slow : 1);
    if (moving) slow = took > 60 ? Math.max(0.35, slow * 0.75) : took < 20 ? Math.min(1, slow * 1.25) : slow;
    clearTimeout(frame.still);
    frame.still = setTimeout(() => { moving = 0; root.dataset.still = draw(took < 25 ? 2 : took < 250 ? 1.5 : 1) && frames; }, 160);
  }
  function redraw(interactive) {
    moving = interactive ? 1 : moving;
    if (!wanted) { wanted = true; requestAnimationFrame(frame); }
  }
  function tell() {
    const turn = ((state.azimuth % 360) + 360) % 360, side = turn > 180 ? `${Math.round(360 - turn)}° to their right` : `${Math.round(turn)}° to their left`;
    const place = turn < 0.5 || turn > 359.5 ? "from the front" : `from ${side}`;
    find("place").textContent = `${place}, ${Math.abs(Math.round(state.elevation))}° ${state.elevation < 0 ? "below" : "above"}`;
    find("value").textContent = box.empty ? `phi ≥ ${state.threshold.toPrecision(2)}: nothing` : `phi ≥ ${state.threshold.toPrecision(2)}: ${box.litres.toPrecision(3)} litres`;
    const key = find("key"), at = levels(), seen = data.palettes[state.shells].seen;
    key.replaceChildren(...at.map((level, i) => {
      const item = document.createElement("span"), swatch = document.createElement("i");
      swatch.style.background = `rgb(${seen[i].map((c) => Math.round(255 * c)).join(",")})`;
      item.append(swatch, level.toPrecision(2));
      return item;
    }));
  }
  function change(values, interactive = true) {
    Object.assign(state, values);
    state.elevation = Math.min(Math.max(state.elevation, -89), 89);
    state.distance = Math.min(Math.max(state.distance, 0.7), 14);
    if ("threshold" in values || "pose" in values) find_box();
    tell();
    redraw(interactive);
  }

  const slider = find("threshold");
  slider.value = Math.round((1000 * state.threshold) / top);
  slider.addEventListener("input", () => change({ threshold: (top * slider.value) / 1000 }));
  find("shells").addEventListener("change", (e) => change({ shells: e.target.checked ? 4 : 1 }));
  find("body").addEventListener("change", (e) => change({ body: e.target.checked }));
  if (cameras) find("cameras").addEventListener("change", (e) => change({ cameras: e.target.checked, distance: e.target.checked ? Math.max(state.distance, data.outside) : home.distance }));
  else find("cameras").closest("label").hidden = true;
  const poses = find("pose");
  scenes.forEach((scene, i) => poses.add(new Option(scene.name, i)));
  poses.closest("label").hidden = scenes.length < 2;
  poses.addEventListener("change", () => change({ pose: Number(poses.value) }));
  find("home").addEventListener("click", () => change({ ...home, centre: home.centre.slice() }));
  find("save").addEventListener("click", () => {
    draw(2);
    const link = document.createElement("a");
    link.download = "chorus-view.png";
    link.href = canvas.toDataURL("image/png");
    link.click();
  });

  const pointers = new Map();
  let pinch = 0;
  canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); pointers.set(e.pointerId, [e.clientX, e.clientY]); pinch = 0; });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (e) => pointers.delete(e.pointerId));
  canvas.addEventListener("pointermove", (e) => {
    const last = pointers.get(e.pointerId);
    if (!last) return;
    const dx = e.clientX - last[0], dy = e.clientY - last[1];
    pointers.set(e.pointerId, [e.clientX, e.clientY]);
    if (pointers.size > 1) {
      const [a, b] = [...pointers.values()], apart = Math.hypot(a[0] - b[0], a[1] - b[1]);
      if (pinch) change({ distance: (state.distance * pinch) / apart });
      pinch = apart;
    } else if (e.shiftKey || e.buttons & 6) {
      const view = chorusCamera(state, 1), scale = state.distance / canvas.clientHeight / 1.6;
      change({ centre: state.centre.map((c, i) => c + scale * (dy * view.up[i] - dx * view.right[i])) });
    } else change({ azimuth: state.azimuth - dx * 0.45, elevation: state.elevation + dy * 0.45 });
  });
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); change({ distance: state.distance * Math.exp(e.deltaY * 0.0012) }); }, { passive: false });
  canvas.addEventListener("contextmenu", (e) => e.preventDefault());
  canvas.addEventListener("keydown", (e) => {
    const step = { ArrowLeft: { azimuth: state.azimuth - 10 }, ArrowRight: { azimuth: state.azimuth + 10 }, ArrowUp: { elevation: state.elevation + 10 },
      ArrowDown: { elevation: state.elevation - 10 }, "+": { distance: state.distance / 1.15 }, "-": { distance: state.distance * 1.15 } }[e.key];
    if (step) { e.preventDefault(); change(step); }
  });
  new ResizeObserver(() => redraw(false)).observe(canvas);
  change({ threshold: state.threshold }, false);
  root.dataset.ready = "yes";
  return { state, change, draw };
}
