// The page of `textdiff demo`.  What it asks goes through the same doors as every other request: /generate, /fill, /score, /restore.
"use strict";

const WORDS = {
  en: {
    form: "Form", title: "Title", acrostic: "Acrostic", prosody: "Tones and rhyme", off: "free", prefer: "preferred", strict: "kept strictly",
    write: "Write a poem", stop: "Stop", again: "Write the others anew", back: "Back", heat: "Surprise", text: "Save text", svg: "Save picture",
    certain: "expected", surprising: "surprising", redraw: "Draw again (r)", freeze: "Freeze (f)", thaw: "Unfreeze (f)",
    alternatives: "What the model would write here, and how likely",
    hint: "Choose a character to freeze it, to draw it again, or to take another. Arrow keys move; f freezes, r draws again.",
    waiting: "waiting …", writing: "writing …", stopped: "stopped", gone: "The service does not answer. Is it still running?",
    seed: "seed", nats: "nats a character", frozen: "frozen", poem: "The poem",
  },
  zh: {
    form: "体裁", title: "题目", acrostic: "藏头", prosody: "平仄与押韵", off: "不限", prefer: "尽量", strict: "严格",
    write: "写一首", stop: "停止", again: "重写其余的字", back: "撤回", heat: "意外程度", text: "保存文字", svg: "保存图片",
    certain: "意料之中", surprising: "出人意料", redraw: "重写此字 (r)", freeze: "保留 (f)", thaw: "不再保留 (f)",
    alternatives: "模型在此处会写的字及其概率",
    hint: "点一个字，可以保留它、重写它，或换成别的字。方向键移动，f 保留，r 重写。",
    waiting: "排队中……", writing: "写作中……", stopped: "已停止", gone: "服务没有回应，它还在运行吗？",
    seed: "种子", nats: "奈特／字", frozen: "已保留", poem: "诗",
  },
};
const HOLE = "□", TOP = 10;  // nats at the end of the scale, as in the pictures of `textdiff score`
const COLOURS = [[250, 249, 240], [254, 224, 144], [253, 157, 72], [214, 57, 44], [103, 0, 46]];
const $ = id => document.getElementById(id);

let settings = {forms: [], told: []};
let language = (navigator.language || "en").startsWith("zh") ? "zh" : "en";
let poem = null;  // {text, form, title, seed}
let shown = "";  // the text on the page, which is another one while a poem is written
let frozen = new Set(), chosen = null, current = 0, nats = null;  // chosen: the character whose panel is open; current: where the keys are
let choices = [];  // what else may stand at the chosen place
let before = [];  // poems that `Back` goes to, with what was frozen
let running = null;  // the AbortController of what is being asked
let writing = false;  // whether that is a poem

const say = word => WORDS[language][word];
const isCharacter = c => c === HOLE || !/[\s\p{P}]/u.test(c);
const characters = text => [...text].filter(isCharacter);

// -- asking ---------------------------------------------------------------------------------------------------------------

async function post(way, job, signal, stream) {
  let answer;
  try {
    const headers = {"Content-Type": "application/json", ...(stream ? {Accept: "text/event-stream"} : {})};
    answer = await fetch(way, {method: "POST", headers, body: JSON.stringify(job), signal});
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error(say("gone"));
  }
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

async function* events(way, job, signal) {
  const reader = (await post(way, job, signal, true)).body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) throw new Error(say("gone"));
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const found = /^event: (\w+)\ndata: (.*)$/.exec(text.slice(0, end));
      if (!found) continue;  // a sign of life
      const data = JSON.parse(found[2]);
      if (found[1] === "error") throw new Error(data.error);
      yield [found[1], data];
      if (found[1] === "result") return;
    }
  }
}

// Let one thing be done at a time; what it throws is shown.
async function working(task) {
  if (running) running.abort();
  const mine = running = new AbortController();
  $("trouble").hidden = true;
  try {
    await task(mine.signal);
  } catch (error) {
    if (running !== mine) return;
    if (error.name === "AbortError") $("status").textContent = say("stopped");
    else {
      $("trouble").textContent = error.message;
      $("trouble").hidden = false;
    }
    shown = poem ? poem.text : "";
  } finally {
    if (running === mine) {
      running = null;
      writing = false;
      draw();
    }
  }
}

// The options that hold for every text of the form on the page.
function options() {
  const title = $("title").value.trim(), prosody = $("prosody").value;
  return {...(title && settings.told.includes("title") ? {title} : {}), ...(prosody === "off" ? {} : {prosody})};
}

async function write(way, job, kept, keepsPanel = false) {
  const focused = $("work").contains(document.activeElement);
  await working(async signal => {
    writing = true;
    $("status").textContent = say("waiting");
    if (!keepsPanel) chosen = null;
    shown = job.text ?? "";
    draw(0);
    for await (const [name, data] of events(way, job, signal)) {
      if (name === "frame") {
        const last = shown;
        shown = data.texts[0];
        $("status").textContent = say("writing");
        draw(1 - data.level, last);
      } else {
        if (poem) before.push({poem, frozen});
        take(data, kept);
        await score(signal);
        describe();
      }
    }
  });
  if (focused && document.activeElement === document.body) cells()[current]?.focus();
}

function take(data, kept) {
  poem = {text: data.text, form: data.form, title: data.title, seed: data.seed};
  [shown, frozen, nats] = [poem.text, kept, null];
  current = Math.min(current, characters(shown).length - 1);
}

async function score(signal) {
  if (!$("heat").checked || !poem || nats) return;
  const {text, form, title} = poem;
  const job = {text, form, detail: true, levels: 8, repeats: 1, ...(title ? {title} : {})};
  const found = await (await post("score", job, signal)).json();
  if (poem.text !== text) return;
  nats = found.detail.nats;
  poem.mean = found.nats_per_char;
}

// The text with holes where `open` says so.
function holed(open) {
  let k = 0;
  return [...poem.text].map(c => isCharacter(c) && open(k++) ? HOLE : c).join("");
}

function fill(open, keepsPanel) {
  if (poem && !writing) write("fill", {text: holed(open), form: poem.form, seed: chance(), ...options()}, frozen, keepsPanel);
}

const chance = () => crypto.getRandomValues(new Uint32Array(1))[0];

function alternatives() {
  const place = chosen, text = poem.text;
  choices = [];
  return working(async signal => {
    draw();
    const job = {text: holed(k => k === place), form: poem.form, top: 8, ...(poem.title ? {title: poem.title} : {})};
    const found = await (await post("restore", job, signal)).json();
    if (chosen === place && poem.text === text) choices = found.gaps[0].fillings;
  });
}

function replace(place, other) {
  let k = 0;
  before.push({poem, frozen});
  poem = {...poem, text: [...poem.text].map(c => isCharacter(c) && k++ === place ? other : c).join("")};
  [shown, nats] = [poem.text, null];
  frozen = new Set(frozen).add(place);
  cells()[place].focus();
  working(score).then(describe);
}

// -- showing --------------------------------------------------------------------------------------------------------------

// The page as things stand; a text that is being written is shown as far as it is, and what is new in it is marked.
function draw(share = null, last = null) {
  const busy = share !== null, letters = characters(shown), old = last === null ? null : characters(last);
  $("work").hidden = !shown && !running;
  $("stop").hidden = !writing;
  $("progress").firstChild.style.width = `${100 * (busy ? share : writing ? 0 : 1)}%`;
  const box = $("poem"), shape = [...shown].map(c => isCharacter(c) ? "c" : c).join("");
  if (box.dataset.shape !== shape) {
    box.dataset.shape = shape;
    let k = 0, row = 0;
    box.replaceChildren(...shown.split("\n").map(couplet => {
      const pair = document.createElement("div");
      pair.className = "pair";
      pair.append(...couplet.split(/(?<=\p{P})/u).map(line => {
        const part = document.createElement("div");
        let column = 0;
        part.className = "line";
        row++;
        for (const c of line) part.append(isCharacter(c) ? cell(k++, row, ++column) : mark(c));
        return part;
      }));
      return pair;
    }));
  }
  cells().forEach((button, k) => {
    const c = letters[k], heat = !busy && nats ? nats[k] : null;
    button.textContent = c;
    button.setAttribute("aria-disabled", String(writing));
    button.className = [c === HOLE && "hole", busy && old && old[k] !== c && c !== HOLE && "new", frozen.has(k) && c !== HOLE && "frozen",
      k === chosen && "chosen", heat !== null && "heated"].filter(Boolean).join(" ");
    const [colour, ink] = heat === null ? ["", ""] : heated(heat);
    button.style.setProperty("--heat", colour);
    button.style.setProperty("--on-heat", ink);
    button.title = heat === null ? "" : `${heat.toFixed(2)} nats`;
    button.tabIndex = k === current ? 0 : -1;
    button.setAttribute("aria-pressed", String(frozen.has(k)));
    button.setAttribute("aria-label", `${c} ${where(button)}${frozen.has(k) ? ", " + say("frozen") : ""}${heat === null ? "" : `, ${heat.toFixed(1)} nats`}`);
  });
  const idle = poem && !writing;
  for (const id of ["again", "text", "svg"]) $(id).disabled = !idle;
  $("again").disabled ||= frozen.size >= letters.length;
  $("back").disabled = !before.length || writing;
  $("scale").hidden = !nats || busy;
  panel();
}

function describe() {
  if (!poem) return;
  $("status").textContent = [poem.title, `${say("seed")} ${poem.seed}`, nats && `${poem.mean.toFixed(2)} ${say("nats")}`].filter(Boolean).join(" · ");
}

function mark(c) {
  const part = document.createElement("span");
  part.textContent = c;
  return part;
}

function cell(k, row, column) {
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.row = row;
  button.dataset.column = column;
  button.addEventListener("click", () => choose(k));
  button.addEventListener("focus", () => at(k));
  return button;
}

const cells = () => [...$("poem").querySelectorAll("button")];
const where = ({dataset: {row, column}}) => language === "zh" ? `第${row}行第${column}字` : `line ${row}, character ${column}`;

function heated(value) {
  const at = Math.min(value / TOP, 1) * (COLOURS.length - 1), low = Math.min(Math.floor(at), COLOURS.length - 2);
  const [r, g, b] = COLOURS[low].map((c, i) => Math.round(c + (at - low) * (COLOURS[low + 1][i] - c)));
  return [`rgb(${r} ${g} ${b})`, .3 * r + .59 * g + .11 * b > 140 ? "#222" : "#fff"];
}

function at(k) {
  current = k;
  cells().forEach((button, other) => { button.tabIndex = other === k ? 0 : -1; });
}

function choose(k) {
  if (writing) return;
  chosen = k;
  alternatives();
  $("character").scrollIntoView({block: "nearest"});
}

function panel() {
  const open = chosen !== null && poem && cells()[chosen];
  $("character").hidden = !open;
  if (!open) return;
  const there = characters(shown)[chosen];
  $("which").textContent = there;
  $("where").textContent = where(cells()[chosen]);
  $("freeze").textContent = say(frozen.has(chosen) ? "thaw" : "freeze");
  for (const id of ["freeze", "redraw"]) $(id).disabled = writing;
  $("alternatives").replaceChildren(...choices.map(({text, probability}) => {
    const button = document.createElement("button"), share = document.createElement("small");
    share.textContent = ` ${(100 * probability).toFixed(probability < .0095 ? 1 : 0)}%`;
    button.type = "button";
    button.append(text, share);
    button.disabled = writing || text === there;
    button.addEventListener("click", () => replace(chosen, text));
    return button;
  }));
}

function toggle(k) {
  if (writing) return;
  frozen = new Set(frozen);
  if (!frozen.delete(k)) frozen.add(k);
  draw();
}

function spoken() {
  document.documentElement.lang = language;
  for (const part of document.querySelectorAll("[data-say]")) part.textContent = say(part.dataset.say);
  $("language").textContent = language === "zh" ? "English" : "中文";
  $("language").lang = language === "zh" ? "en" : "zh";
  $("poem").setAttribute("aria-label", say("poem"));
  for (const option of $("form").options) option.textContent = language === "zh" ? option.dataset.zh : `${option.value} ${option.dataset.zh}`;
  if (poem && !writing) describe();
  draw();
}

// -- files ----------------------------------------------------------------------------------------------------------------

function save(name, kind, content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], {type: kind}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function picture() {
  const size = 48, lines = poem.text.split("\n"), width = size * (Math.max(...lines.map(line => [...line].length)) + 1);
  const escaped = c => c.replace(/[&<>"]/g, one => `&#${one.charCodeAt(0)};`);
  let k = 0;
  const parts = lines.flatMap((line, row) => [...line].map((c, column) => {
    const value = isCharacter(c) && nats ? nats[k] : null, [colour, ink] = value === null ? ["none", "#222"] : heated(value);
    if (isCharacter(c)) k++;
    const [x, y] = [size * (column + .5), size * (row + .5)];
    return `<rect x="${x}" y="${y}" width="${size}" height="${size}" fill="${colour}"/>` +
      `<text x="${x + size / 2}" y="${y + size * .72}" fill="${ink}" text-anchor="middle">${escaped(c)}</text>`;
  }));
  const height = size * (lines.length + 1);
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-size="34" ` +
    `font-family="'Noto Serif CJK SC','Songti SC',SimSun,serif"><title>${escaped(poem.title || poem.text)}</title>` +
    `<rect width="${width}" height="${height}" fill="#fdfcf8"/>${parts.join("")}</svg>\n`;
}

// -- what people do -------------------------------------------------------------------------------------------------------

$("wishes").addEventListener("submit", event => {
  event.preventDefault();
  const acrostic = $("acrostic").value.trim(), form = settings.forms.find(one => one.name === $("form").value);
  const heads = [...acrostic].flatMap((c, row) => c === "_" ? [] : [row * form.width]);
  write("generate", {form: form.name, seed: chance(), ...(acrostic ? {acrostic} : {}), ...options()}, new Set(heads));
});
$("stop").addEventListener("click", () => running?.abort());
$("again").addEventListener("click", () => fill(k => !frozen.has(k)));
$("freeze").addEventListener("click", () => toggle(chosen));
$("redraw").addEventListener("click", () => fill(k => k === chosen, true));
$("back").addEventListener("click", () => {
  ({poem, frozen} = before.pop());
  [shown, nats, chosen] = [poem.text, null, null];
  working(score).then(describe);
});
$("heat").addEventListener("change", () => {
  if (!$("heat").checked) nats = null;
  if (poem && !writing) working(score).then(describe);
});
$("text").addEventListener("click", () => save("poem.txt", "text/plain", (poem.title ? poem.title + "\n\n" : "") + poem.text + "\n"));
$("svg").addEventListener("click", () => save("poem.svg", "image/svg+xml", picture()));
$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  spoken();
});
$("poem").addEventListener("keydown", event => {
  const all = cells(), k = all.indexOf(event.target);
  if (k < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  const {row, column} = event.target.dataset, beside = step => all.find(one => one.dataset.row === String(Number(row) + step) && one.dataset.column === column);
  const to = {ArrowRight: all[k + 1], ArrowLeft: all[k - 1], ArrowDown: beside(1), ArrowUp: beside(-1), Home: all[0], End: all.at(-1)}[event.key];
  if (to) {
    event.preventDefault();
    to.focus();
  } else if (event.key === "f") toggle(k);
  else if (event.key === "r") fill(other => other === k, chosen === k);
});

fetch("settings").then(answer => answer.json()).then(found => {
  settings = found;
  $("model").textContent = found.model;
  $("titled").hidden = !found.told.includes("title");
  $("form").replaceChildren(...found.forms.map(({name, chinese}) => {
    const option = document.createElement("option");
    option.value = name;
    option.dataset.zh = chinese;
    option.selected = name === found.form;
    return option;
  }));
  spoken();
});
