"""The HTML page of a report: one file with everything inside, styles and scripts included; no network is used."""

from __future__ import annotations

from string import Template

__all__ = ["PAGE"]

_STYLE = """
:root { --ink:#212529; --soft:#868e96; --line:#e9ecef; --paper:#fff; --ground:#f8f9fa; --accent:#1c7ed6;
  --good:#2b8a3e; --fair:#868e96; --bad:#c92a2a; }
@media (prefers-color-scheme: dark) { :root { --ink:#e9ecef; --soft:#909296; --line:#373a40; --paper:#25262b;
  --ground:#1a1b1e; --accent:#74c0fc; --good:#69db7c; --fair:#adb5bd; --bad:#ff8787; } }
* { box-sizing:border-box } body { margin:0; background:var(--ground); color:var(--ink);
  font:15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width:1180px; margin:0 auto; padding:28px 20px 60px }
h1 { font-size:26px; font-weight:650; letter-spacing:-.01em; margin:0 0 4px } h2 { font-size:18px; margin:38px 0 10px }
p.lead { color:var(--soft); margin:0 0 20px } a { color:var(--accent); text-decoration:none }
a:hover { text-decoration:underline }
.tiles { display:flex; gap:12px; flex-wrap:wrap } .tile { background:var(--paper); border:1px solid var(--line);
  border-radius:10px; padding:10px 16px; min-width:112px } .tile b { display:block; font-size:22px; font-weight:650;
  font-variant-numeric:tabular-nums } .tile span { color:var(--soft); font-size:13px }
.wide { overflow-x:auto; background:var(--paper); border:1px solid var(--line); border-radius:10px }
table { border-collapse:collapse; width:100%; font-size:14px; font-variant-numeric:tabular-nums }
th { text-align:left; font-weight:600; color:var(--soft); cursor:pointer; user-select:none; white-space:nowrap }
th:hover { color:var(--ink) } th[data-way="1"]::after { content:" \\2191" }
th[data-way="-1"]::after { content:" \\2193" }
th, td { padding:7px 12px; border-bottom:1px solid var(--line); vertical-align:top }
tr:last-child td { border-bottom:0 }
td.n, th.n { text-align:right } td.said { min-width:280px; color:var(--soft) }
dl { background:var(--paper); border:1px solid var(--line); border-radius:10px; padding:12px 16px; margin:0 }
dt { font-weight:600 } dd { margin:0 0 8px; color:var(--bad); overflow-wrap:anywhere }
dd:last-child { margin:0 } .improved { color:var(--good) } .unchanged, .skipped { color:var(--fair) }
.rejected, .failed { color:var(--bad) }
article { background:var(--paper); border:1px solid var(--line); border-radius:12px; padding:16px; margin:0 0 18px }
article header { display:flex; gap:14px; align-items:baseline; flex-wrap:wrap } article h3 { margin:0; font-size:17px }
article header nav { margin-left:auto; font-size:14px; display:flex; gap:14px }
article p { margin:4px 0 10px; color:var(--soft); font-size:14px } article ul { margin:8px 0 0; padding-left:18px;
  color:var(--soft); font-size:13.5px }
.show { display:grid; grid-template-columns:minmax(0,1fr) 320px; gap:14px; align-items:start }
.show img { width:100%; height:auto; border-radius:6px; display:block; background:#fff }
.side { display:grid; gap:10px }
canvas.turn { width:100%; aspect-ratio:1; border-radius:8px; background:linear-gradient(#fafbfc,#e4e7eb); cursor:grab;
  touch-action:none; display:block }
.turnbar { display:flex; gap:6px; font-size:13px; color:var(--soft); align-items:center }
button { font:inherit; font-size:13px; border:1px solid var(--line); background:var(--paper); color:var(--ink);
  border-radius:7px; padding:2px 10px; cursor:pointer }
button[aria-pressed=true] { border-color:var(--accent); color:var(--accent) }
.pager { display:flex; gap:10px; align-items:center; color:var(--soft); font-size:13px; margin:8px 0 }
.pager input { font:inherit; background:var(--paper); color:var(--ink); border:1px solid var(--line); border-radius:7px;
  padding:2px 8px; margin-left:auto }
details { margin-top:26px }
pre { background:var(--paper); border:1px solid var(--line); border-radius:10px; padding:14px; overflow:auto;
  font-size:13px } footer { margin-top:34px; color:var(--soft); font-size:13px }
@media (max-width:820px) { .show { grid-template-columns:1fr } }
"""

_SCRIPT = r"""
const order = (a, b, way) => { if (a === null || b === null) return (a === null) - (b === null);
  return way * (typeof a === 'number' && typeof b === 'number' ? a - b : ('' + a).localeCompare('' + b)); };

function heads(sorted) { document.querySelectorAll('th').forEach((head, column) => head.onclick = () => {
  const way = head.dataset.way === '1' ? -1 : 1;
  head.closest('tr').querySelectorAll('th').forEach(other => delete other.dataset.way);
  head.dataset.way = way; sorted(column, way); }); }

function whole() {
  const body = document.querySelector('table').tBodies[0];
  const key = (row, column) => { const cell = row.cells[column], text = cell.dataset.v ?? cell.textContent;
    return text === '' ? null : isNaN(text) ? text : +text; };
  heads((column, way) => [...body.rows].sort((a, b) => order(key(a, column), key(b, column), way))
    .forEach(row => body.append(row)));
}

// More rows than a table should have: their numbers stay here, a page of them is in the table.
function paged(data) {
  const body = document.querySelector('table').tBodies[0], bar = document.querySelector('.pager');
  const [back, on] = bar.querySelectorAll('button');
  const said = bar.querySelector('span'), find = bar.querySelector('input');
  let rows = data.rows, page = 0;
  const cell = (row, value, column) => { const made = document.createElement('td'), name = data.columns[column];
    made.className = data.text[column] ? (name === 'said' ? 'said' : name === 'name' ? '' : value ?? '') : 'n';
    if (name === 'name' && !row[0]) made.append(Object.assign(document.createElement('a'),
      {href: `items/${value.split('/').map(encodeURIComponent).join('/')}/`, textContent: value}));
    else made.textContent = value ?? '';
    return made; };
  function show() {
    const first = page * data.size, some = rows.slice(first, first + data.size);
    body.replaceChildren(...some.map(row => { const made = document.createElement('tr');
      made.append(...row.slice(1).map((value, column) => cell(row, value, column))); return made; }));
    said.textContent = rows.length ? `${first + 1} to ${first + some.length} of ${rows.length}` : 'none';
    back.disabled = page === 0; on.disabled = first + data.size >= rows.length;
  }
  [back, on].forEach(button => button.onclick = () => { page += +button.dataset.by; show(); });
  const texts = data.columns.flatMap((name, column) => data.text[column] ? [column] : []);
  find.oninput = () => { const part = find.value.toLowerCase(); page = 0;
    rows = data.rows.filter(row => texts.some(column => ('' + (row[column + 1] ?? '')).toLowerCase().includes(part)));
    show(); };
  heads((column, way) => { const by = (a, b) => order(a[column + 1] ?? null, b[column + 1] ?? null, way);
    data.rows.sort(by); if (rows !== data.rows) rows.sort(by); page = 0; show(); });
  show();
}
const rowsAside = document.getElementById('rows');
if (rowsAside) paged(JSON.parse(rowsAside.textContent)); else whole();

const SHADERS = [`#version 300 es
layout(location = 0) in vec3 place; layout(location = 1) in vec3 normal; uniform mat3 turn; uniform vec4 view;
out vec3 where; out vec3 smoothed;
void main() { vec3 p = turn * (place - view.xyz) / view.w; where = p; smoothed = turn * normal;
  gl_Position = vec4(p.x * 0.8, -p.y * 0.8, p.z * 0.1, 1.0 + 0.2 * p.z); }`,
`#version 300 es
precision highp float; in vec3 where; in vec3 smoothed; uniform vec3 color; out vec4 seen;
void main() { vec3 flat_ = normalize(cross(dFdx(where), dFdy(where))); if (flat_.z > 0.0) flat_ = -flat_;
  vec3 n = normalize(smoothed); if (dot(n, flat_) < 0.75) n = flat_;  // creases stay creases
  float key = max(dot(n, normalize(vec3(-0.45, -0.65, -0.62))), 0.0), sky = 0.5 - 0.5 * n.y;
  seen = vec4(pow(color * (0.78 * key + 0.32 * sky + 0.16), vec3(1.0 / 2.2)), 1.0); }`];

function bytes(text) { const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i); return out.buffer; }

function normals(places, faces) {
  const total = new Float32Array(places.length), at = (i, k) => places[3 * i + k];
  for (let f = 0; f < faces.length; f += 3) {
    const [i, j, k] = faces.subarray(f, f + 3);
    const u = [0, 1, 2].map(c => at(j, c) - at(i, c)), v = [0, 1, 2].map(c => at(k, c) - at(i, c));
    [0, 1, 2].forEach(c => { const n = u[(c + 1) % 3] * v[(c + 2) % 3] - u[(c + 2) % 3] * v[(c + 1) % 3];
      total[3 * i + c] += n; total[3 * j + c] += n; total[3 * k + c] += n; }); }
  for (let i = 0; i < total.length; i += 3) { const length = Math.hypot(...total.subarray(i, i + 3)) || 1;
    for (let c = 0; c < 3; c++) total[i + c] /= length; }
  return total;
}

function viewer(canvas) {
  const data = JSON.parse(document.getElementById(canvas.dataset.mesh).textContent);
  const gl = canvas.getContext('webgl2', {antialias: true, alpha: true, premultipliedAlpha: false});
  if (!gl) { canvas.replaceWith(Object.assign(document.createElement('p'),
    {textContent: 'No WebGL here: open scene.glb instead.'})); return; }
  const program = gl.createProgram();
  SHADERS.forEach((text, i) => { const shader = gl.createShader(i ? gl.FRAGMENT_SHADER : gl.VERTEX_SHADER);
    gl.shaderSource(shader, text); gl.compileShader(shader); gl.attachShader(program, shader); });
  gl.linkProgram(program); gl.useProgram(program);
  const uniform = name => gl.getUniformLocation(program, name);
  const parts = data.parts.map(part => {
    const array = gl.createVertexArray(); gl.bindVertexArray(array);
    const raw = new Uint16Array(bytes(part.vertices)), places = new Float32Array(raw.length);
    for (let i = 0; i < raw.length; i++) places[i] = data.low[i % 3] + raw[i] / 65535 * data.span;
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer()); gl.bufferData(gl.ARRAY_BUFFER, places, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0); gl.vertexAttribPointer(0, 3, gl.FLOAT, false, 0, 0);
    const faces = new Uint16Array(bytes(part.faces));
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, normals(places, faces), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(1); gl.vertexAttribPointer(1, 3, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    return {array, count: faces.length, color: part.color, when: part.when};
  });
  let yaw = 0.5, pitch = -0.25, zoom = 1, shown = 'after', last = null;
  function draw() {
    const size = Math.round(canvas.clientWidth * devicePixelRatio);
    canvas.width = canvas.height = size;
    gl.viewport(0, 0, size, size); gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    const [a, b, c, d] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    gl.uniformMatrix3fv(uniform('turn'), false, [a, b * d, -b * c, 0, c, d, b, -a * d, a * c]);
    gl.uniform4f(uniform('view'), ...data.centre, data.radius / zoom);
    parts.filter(part => part.when === shown).forEach(part => { gl.bindVertexArray(part.array);
      gl.uniform3f(uniform('color'), ...part.color.map(v => v ** 2.2));
      gl.drawElements(gl.TRIANGLES, part.count, gl.UNSIGNED_SHORT, 0); });
  }
  canvas.onpointerdown = event => { last = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); };
  canvas.onpointermove = event => { if (!last) return; yaw -= (event.clientX - last[0]) * 0.01;
    pitch = Math.max(-1.5, Math.min(1.5, pitch + (event.clientY - last[1]) * 0.01));
    last = [event.clientX, event.clientY]; draw(); };
  canvas.onpointerup = canvas.onpointercancel = () => last = null;
  canvas.onwheel = event => { event.preventDefault();
    zoom = Math.max(.5, Math.min(6, zoom * Math.exp(-event.deltaY * .001))); draw(); };
  const buttons = canvas.parentElement.querySelectorAll('button');
  buttons.forEach(button => button.onclick = () => { shown = button.dataset.when;
    buttons.forEach(other => other.setAttribute('aria-pressed', other === button)); draw(); });
  draw();
}
// A browser keeps only about sixteen WebGL contexts: a viewer starts when it comes into sight and is dropped after.
const made = new Map(), watch = new IntersectionObserver(entries => entries.forEach(entry => {
  const canvas = entry.target;
  if (entry.isIntersecting && !made.has(canvas)) { made.set(canvas, canvas.cloneNode()); viewer(canvas); }
  else if (!entry.isIntersecting && made.has(canvas)) { const fresh = made.get(canvas); made.delete(canvas);
    canvas.getContext('webgl2')?.getExtension('WEBGL_lose_context')?.loseContext();
    watch.unobserve(canvas); canvas.replaceWith(fresh); watch.observe(fresh); }
}), {rootMargin: '200px'});
document.querySelectorAll('canvas.turn').forEach(canvas => watch.observe(canvas));
"""

PAGE = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title><style>"""
    + _STYLE.replace("$", "$$")
    + """</style></head><body><main>
<h1>$title</h1><p class="lead">$lead</p>
<div class="tiles">$tiles</div>
<h2>All images</h2><div class="wide"><table><thead><tr>$heads</tr></thead><tbody>$rows</tbody></table></div>$pages
$failures<h2>$articles_title</h2>$articles
<details><summary>The recipe (config.resolved.yaml)</summary><pre>$config</pre></details>
<footer>$footer</footer></main><script>"""
    + _SCRIPT.replace("$", "$$")
    + """</script></body></html>
"""
)
"""Substitute title, lead, tiles, heads, rows, pages, failures, articles_title, articles, config and footer: HTML."""
