// Loads every page of a site in a frame, lays it out at each width, and posts what is wrong; page_widths.py serves it.

const ROOM = 1; // a pixel: positions are rounded

async function loaded(frame, page) {
  await new Promise((resolve) => { frame.onload = resolve; frame.src = page; });
  const tables = () => [...frame.contentDocument.querySelectorAll("article table:not([class])")];
  // The theme puts tables into a box that scrolls, once its script has run.
  for (let waited = 0; waited < 50 && !tables().every((one) => one.closest(".md-typeset__scrollwrap")); waited++)
    await new Promise((resolve) => setTimeout(resolve, 40));
  return frame.contentWindow;
}

function scrolls(element, view) {
  return ["auto", "scroll"].includes(view.getComputedStyle(element).overflowX);
}

// Where the outermost element around this one that scrolls by itself ends; without any, the end of its content.
function rightEnd(element, view) {
  let box = null;
  for (let one = element; one.tagName !== "ARTICLE"; one = one.parentElement) if (scrolls(one, view)) box = one;
  if (box) return box.getBoundingClientRect().right;
  const { left, right } = element.getBoundingClientRect();
  return Math.max(right, left + element.scrollWidth);
}

function problemsOf(view, width) {
  const page = view.document.documentElement, found = [];
  if (page.scrollWidth > page.clientWidth) found.push(`${width} px: the page is ${page.scrollWidth} px wide`);
  const right = view.document.querySelector(".md-content").getBoundingClientRect().right;
  for (const one of view.document.querySelectorAll("article :is(table, pre, img, svg)")) {
    const excess = rightEnd(one, view) - right;
    if (excess > ROOM) found.push(`${width} px: a ${one.tagName} ends ${excess} px too far right`);
  }
  return found;
}

function missing(view) {
  const fetched = view.performance.getEntriesByType("resource");
  const bad = fetched.filter((one) => !one.name.startsWith(location.origin) || one.responseStatus >= 400);
  const images = [...view.document.images].filter((one) => one.complete && !one.naturalWidth);
  return [...bad.map((one) => `fetches ${one.name}`), ...images.map((one) => `does not show ${one.src}`)];
}

async function measure({ pages, widths }) {
  const frame = document.body.appendChild(document.createElement("iframe")), problems = {};
  frame.height = 5000;
  for (const page of pages) {
    const view = await loaded(frame, page);
    problems[page] = widths.flatMap((width) => { frame.width = width; return problemsOf(view, width); });
    problems[page].push(...missing(view));
  }
  return problems;
}

fetch("/asked")
  .then((answer) => answer.json())
  .then(measure)
  .catch((error) => ({ error: [String(error.stack)] }))
  .then((problems) => fetch("/problems", { method: "POST", body: JSON.stringify(problems) }));
