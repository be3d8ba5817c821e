"use strict";

// Replaces the parts of a page that change, every five seconds while the page is visible and in no use.
const INTERVAL = 5000;

function isInUse(part) {
  const active = document.activeElement;
  // a table has the focus to be scrolled: its contents may change meanwhile
  const focused = part.contains(active) && active !== part && !active.classList.contains("scroll");
  return document.hidden || focused || part.querySelector("details[open]") !== null || !document.getSelection().isCollapsed;
}

function announce(isStale) {
  const note = document.getElementById("stale");
  if (note) {
    note.hidden = !isStale;
  }
}

async function refresh(part) {
  const answer = await fetch(window.location.href, {
    cache: "no-store",
    redirect: "manual",
    signal: AbortSignal.timeout(2 * INTERVAL),
  });
  if (answer.type === "opaqueredirect") {
    // the login has ended: the browser follows to the page that asks for it
    window.location.reload();
    return;
  }
  if (!answer.ok) {
    throw new Error(answer.statusText);
  }
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const next = page.querySelector("[data-live]");
  if (next && !isInUse(part)) {
    const tables = Array.from(part.querySelectorAll(".scroll"));
    const [scrolled, focused] = [tables.map((table) => table.scrollLeft), tables.indexOf(document.activeElement)];
    part.replaceChildren(...next.childNodes);
    part.querySelectorAll(".scroll").forEach((table, index) => {
      table.scrollLeft = scrolled[index] ?? 0;
      if (index === focused) {
        table.focus({ preventScroll: true });
      }
    });
    const [now, shown] = [page, document].map((from) => from.querySelector("footer time"));
    if (now && shown) {
      shown.replaceWith(document.adoptNode(now));
    }
  }
}

// Waits for the answer before it waits for the next interval, so that a slow server has one request to answer.
async function refreshAgain() {
  const part = document.querySelector("[data-live]");
  if (part && !isInUse(part)) {
    await refresh(part).then(
      () => announce(false),
      () => announce(true),
    );
  }
  window.setTimeout(refreshAgain, INTERVAL);
}

window.setTimeout(refreshAgain, INTERVAL);
