// The page of `sharedq serve`: the agent plays, and the values of every head stand beside the picture.
"use strict";

const REMEMBERED = 200; // steps in the chart of what happened, and those that the scale of the values fits
const find = (id) => document.getElementById(id);
let token = null;
let agent = null;
let isPlaying = false;
let newestLoop = 0; // only the newest loop of steps goes on
let lastStep = Promise.resolve(); // each step waits for the one before it
let history = []; // of each step: the values of the chosen action by head
let extents = []; // of each step: the smallest and the largest value of all heads

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const number = (x) => (Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en-US") : String(Number(x.toPrecision(3))));

const holder = document.createElement("template");
holder.innerHTML = "<svg></svg>";
const SVG = holder.content.firstChild.namespaceURI;

function make(tag, attributes, ...children) {
  const isSvg = ["svg", "path"].includes(tag);
  const one = isSvg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
  one.append(...children);
  return one;
}

function headColour(head, heads) {
  const share = heads > 1 ? (100 * head) / (heads - 1) : 0;
  return `color-mix(in oklab, var(--c3) ${share}%, var(--c0))`;
}

async function ask(path, body) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const answer = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body });
  const found = await answer.json().catch(() => ({ detail: `the server answered ${answer.status}` }));
  if (answer.ok) return found;
  throw Object.assign(new Error(found.detail), { status: answer.status });
}

function complain(error) {
  const isGone = error instanceof TypeError;
  find("wrong").textContent = error ? (isGone ? "The server does not answer: it may have stopped." : error.message) : "";
  find("wrong").hidden = !error;
}

function actionName(place) {
  const first = agent.actions.first || 0;
  return agent.action_names ? agent.action_names[place] : `action ${agent.actions.sizes ? place : first + place}`;
}

const best = (values) => values.indexOf(Math.max(...values));

function shareOf(value, low, high) {
  return high > low ? Math.min(100, Math.max(0, (100 * (value - low)) / (high - low))) : 50;
}

function row(name, isChosen, share, text, dots) {
  const bar = make("span", { class: "bar" });
  bar.style.width = `${share}%`;
  const track = make("div", { class: "track" }, bar, ...dots);
  return make("div", { class: isChosen ? "row chosen" : "row" }, make("span", { class: "name" }, name), track,
    make("span", { class: "number" }, text));
}

function showDiscrete(found) {
  const { values, head_values: heads } = found;
  const all = heads.flat().concat(values);
  extents.push([Math.min(...all), Math.max(...all)]);
  extents = extents.slice(-REMEMBERED);
  let low = Math.min(...extents.map((one) => one[0]));
  let high = Math.max(...extents.map((one) => one[1]));
  const room = 0.04 * (high - low || 1);
  [low, high] = [low - room, high + room];
  const chosen = best(values);
  const wishes = heads.map(best);
  const rows = values.map((value, place) => {
    const dots = heads.length < 2 ? [] : heads.map((one, head) => {
      const dot = make("span", { class: wishes[head] === place ? "head wish" : "head" });
      dot.title = `head ${head + 1}: ${number(one[place])}`;
      dot.style.left = `${shareOf(one[place], low, high)}%`;
      dot.style.top = `${(100 * (head + 0.5)) / heads.length}%`;
      dot.style.background = headColour(head, heads.length);
      return dot;
    });
    return row(actionName(place), place === chosen, shareOf(value, low, high), number(value), dots);
  });
  find("key-of-heads").hidden = heads.length < 2;
  find("rows").style.setProperty("--row", `${Math.max(1.5, 0.32 * heads.length)}rem`);
  find("rows").replaceChildren(...rows);
  find("scale").replaceChildren(make("span", {}, number(low)), make("span", {}, "value"), make("span", {}, number(high)));
  const others = wishes.filter((wish) => wish !== chosen).length;
  find("agreement").textContent = heads.length < 2 ? "The agent has one head, so that nothing can disagree." :
    others === 0 ? `All ${heads.length} heads choose ${actionName(chosen)}.` :
      `${others} of ${heads.length} heads would choose another action: ` +
      wishes.flatMap((wish, head) => (wish === chosen ? [] : [`head ${head + 1} ${actionName(wish)}`])).join(", ") + ".";
  history.push(heads.map((one) => one[chosen]));
  history = history.slice(-REMEMBERED);
  showHistory();
}

function showHistory() {
  const all = history.flat();
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const heads = history[0].length;
  const lines = [...Array(heads).keys()].map((head) => {
    const points = history.map((one, at) => `${at},${(100 - shareOf(one[head], low, high)).toFixed(2)}`);
    const line = make("path", { d: `M${points.join("L")}`, "vector-effect": "non-scaling-stroke" });
    line.style.stroke = headColour(head, heads);
    return line;
  });
  find("past").replaceChildren(make("svg", { viewBox: `0 -2 ${REMEMBERED - 1} 104`, preserveAspectRatio: "none",
    role: "img", "aria-label": "value of the chosen action by each head over the last steps" }, ...lines));
  find("past-scale").textContent = `Value of the chosen action over the last ${history.length} of ${REMEMBERED} ` +
    `steps, a line for each head: from ${number(low)} to ${number(high)}.`;
  find("past-figure").hidden = history.length < 2;
}

function showContinuous(action) {
  const [low, high] = [agent.actions.low, agent.actions.high].map((bound) => [bound].flat(Infinity).map(Number));
  const rows = action.flat(Infinity).map((one, place) =>
    row(agent.action_names ? agent.action_names[place] : `action ${place}`, false,
      shareOf(one, low[place], high[place]), number(one), []));
  find("rows").replaceChildren(...rows);
  find("scale").replaceChildren(make("span", {}, "lowest"), make("span", {}, "action"), make("span", {}, "highest"));
  find("agreement").textContent = "The actions are continuous, so that the file has no values: its critics are left out.";
}

function show(found) {
  find("values").hidden = false;
  if (found.values) showDiscrete(found);
  else showContinuous([found.action]);
}

function step() {
  lastStep = lastStep.catch(() => {}).then(oneStep);
  return lastStep;
}

async function oneStep() {
  const found = await ask("play", "");
  find("values").hidden = false;
  find("picture").hidden = !found.picture;
  if (found.picture) find("picture").src = `data:image/png;base64,${found.picture}`;
  find("seen").hidden = Boolean(found.picture) || !found.observation;
  if (found.observation) find("seen").textContent = `The agent sees ${found.observation.map(number).join("  ")}`;
  const last = found.last_return === null ? "" : ` · return of the last episode ${number(found.last_return)}`;
  find("score").textContent = `episode ${found.episode} · step ${found.step} · return ${number(found.return)}${last}`;
  show(found);
}

async function play(go) {
  if (isPlaying === go) return;
  isPlaying = go;
  const loop = ++newestLoop;
  find("toggle").textContent = go ? "Pause" : "Play";
  while (isPlaying && loop === newestLoop) {
    const begun = performance.now();
    try {
      await step();
      complain(null);
    } catch (error) {
      complain(error);
      if (error.status === 503) await sleep(1000);
      else if (loop !== newestLoop) return;
      else {
        isPlaying = false;
        find("toggle").textContent = "Play";
        return;
      }
    }
    await sleep(Math.max(0, 1000 / Number(find("speed").value) - (performance.now() - begun)));
  }
}

function filled(shape, value) {
  if (shape.length === 0) return value();
  return Array.from({ length: shape[0] }, () => filled(shape.slice(1), value));
}

function propose(isRandom) {
  const { shape, dtype } = agent.observation;
  const draw = dtype === "bool" ? () => Math.random() < 0.1 : /int/.test(dtype) ? () => Math.floor((dtype[0] === "u" ? 256 : 128) * Math.random()) :
    () => Number((2 * Math.random() - 1).toFixed(3));
  find("observation").value = JSON.stringify(filled(shape, isRandom ? draw : () => (dtype === "bool" ? false : 0)));
}

async function send() {
  try {
    const body = `{"observation": ${find("observation").value}}`;
    show(await ask(agent.actions.kind === "discrete" ? "values" : "act", body));
    complain(null);
  } catch (error) {
    complain(error);
  }
}

async function begin() {
  try {
    agent = await ask("agent");
  } catch (error) {
    find("token-form").hidden = error.status !== 401;
    complain(error.status === 401 && token === null ? null : error);
    return;
  }
  complain(null);
  find("token-form").hidden = true;
  find("content").hidden = false;
  find("title").textContent = agent.label;
  document.title = `${agent.label} in ${agent.environment}`;
  const returned = agent.return && ` · mean return ${number(agent.return.mean)} in ${agent.return.episodes} ` +
    (agent.return.of === "evaluation" ? "episodes of its evaluation" : agent.return.of);
  find("about").textContent = `${agent.algorithm} in ${agent.environment} · seed ${agent.seed} · ` +
    `step ${Number(agent.step).toLocaleString("en-US")}${returned || ""} · ${agent.precision}`;
  const { shape, dtype } = agent.observation;
  find("form-of").textContent = `${dtype} [${shape.join(", ")}]`;
  propose(false);
  find("game").hidden = !agent.play;
  find("beside").classList.toggle("alone", !agent.play);
  find("no-game").hidden = agent.play;
  find("by-hand").open = !agent.play;
  find("key").hidden = agent.actions.kind !== "discrete";
  if (agent.play) await play(true);
  else await send();
}

find("toggle").addEventListener("click", () => play(!isPlaying));
find("once").addEventListener("click", async () => {
  await play(false);
  step().then(() => complain(null), complain);
});
find("picture").addEventListener("load", () => {
  find("picture").classList.toggle("grid", find("picture").naturalWidth < 100);
});
find("zeros").addEventListener("click", () => propose(false));
find("random").addEventListener("click", () => propose(true));
find("by-hand-form").addEventListener("submit", (event) => {
  event.preventDefault();
  play(false);
  send();
});
find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value.trim();
  begin();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) play(false); // a page that nobody sees asks for nothing
});
begin();
