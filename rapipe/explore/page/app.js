/* What all views share: where answers come from, the state, the tabs. */
"use strict";

const R = {};

/* Elements. */
R.$ = (id) => document.getElementById(id);
R.make = (tag, properties = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("aria-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
};
R.options = (select, pairs, value) => {
  select.replaceChildren(...pairs.map(([v, text]) => R.make("option", { value: v, textContent: text })));
  if (value !== undefined) select.value = value;
};
R.picture = (id, alt) => {
  const image = R.make("img", { src: R.source.picture(id), alt });
  image.addEventListener("error", () => {
    image.classList.add("missing");
    image.alt = "no picture";
  });
  return image;
};
R.percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

/* A sentence about what went wrong; the next success takes it away. */
R.complain = (text) => {
  R.$("message").textContent = text;
  R.$("message").hidden = !text;
};
R.attempt = async (work) => {
  try {
    const result = await work();
    R.complain("");
    return result;
  } catch (error) {
    R.complain(error.message);
    return undefined;
  }
};

/* Where answers come from: the server, or the data of a static copy. */
R.json = async (path, options) => {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The explorer does not answer: is rapipe explore still running?");
  }
  const facts = await response.json();
  if (!response.ok) throw new Error(facts.error || response.statusText);
  return facts;
};
R.bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;
const copy = window.RAPIPE_DATA;
R.source = copy
  ? {
      fixed: true,
      about: async () => copy.about,
      ask: async (question) => {
        const answer = copy.answers[`${question.classifier}|${question.image}|${question.noise_std}`];
        if (!answer) throw new Error("This copy holds no answer for that: rapipe explore does.");
        return answer;
      },
      mistakes: async (name) => copy.mistakes[name],
      map: async () => {
        if (!copy.map) throw new Error("There is no memory, so there is nothing to map.");
        return [copy.map, R.bytes(copy.map.points)];
      },
      picture: (id) => `pictures/${id}.png`,
    }
  : {
      fixed: false,
      about: () => R.json("api/about"),
      ask: (question) => R.json("api/ask", { method: "POST", body: JSON.stringify(question) }),
      upload: (file) => R.json("api/upload", { method: "POST", body: file }),
      mistakes: (name) => R.json(`api/mistakes/${encodeURIComponent(name)}`),
      map: async () => {
        const facts = await R.json("api/map");
        return [facts, await (await fetch("api/map.bin")).arrayBuffer()];
      },
      picture: (id) => `picture/${id}.png`,
    };

/* What is asked. Views register what they do when it changes, and when they are opened. */
R.state = { view: "ask", image: "", classifier: "" };
R.listeners = [];
R.views = {};
R.classifier = () => R.about.classifiers.find((c) => c.name === R.state.classifier);
R.open = (view, focus = false) => {
  R.state.view = view;
  for (const tab of document.querySelectorAll('[role="tab"]')) {
    const chosen = tab.id === `tab-${view}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    R.$(tab.getAttribute("aria-controls")).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  R.remember();
  R.views[view]();
};
R.ask = (image) => {
  R.state.image = image;
  R.open("ask");
  window.scrollTo({ top: 0 });
};
R.remember = () => {
  const { view, image, classifier } = R.state;
  history.replaceState(null, "", `#${[view, image, classifier].map(encodeURIComponent).join("/")}`);
};
R.restore = () => {
  const [view, image, classifier] = location.hash.slice(1).split("/").map(decodeURIComponent);
  if (classifier && R.about.classifiers.some((c) => c.name === classifier)) R.state.classifier = classifier;
  if (/^-?\d+$/.test(image || "")) R.state.image = image;
  return view in R.views ? view : "ask";
};

R.start = async () => {
  R.about = await R.attempt(() => R.source.about());
  if (!R.about) return;
  const named = R.about.classifiers;
  const first = named.find((c) => c.retrieval === "knn") || named[0];
  R.state.classifier = first.name;
  R.state.image = R.about.test[0].id;
  const view = R.restore();
  R.options(
    R.$("classifier"),
    named.map((c) => [c.name, c.fusion ? `${c.name} (${c.fusion})` : c.name]),
    R.state.classifier,
  );
  const memory = R.about.memory;
  R.$("facts").textContent =
    (memory ? `${memory.rows.toLocaleString("en")} images in the memory, ` : "no memory, ") +
    `${R.about.test.length.toLocaleString("en")} test images`;
  R.$("classifier").addEventListener("change", (event) => {
    R.state.classifier = event.target.value;
    R.remember();
    for (const listener of R.listeners) listener();
    R.views[R.state.view]();
  });
  const tabs = [...document.querySelectorAll('[role="tab"]')];
  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => R.open(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) R.open(tabs[(at + step + tabs.length) % tabs.length].id.slice(4), true);
    });
  });
  R.ready.forEach((prepare) => prepare());
  R.open(view);
};
R.ready = [];
document.addEventListener("DOMContentLoaded", R.start);
