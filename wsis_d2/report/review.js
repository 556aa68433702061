"use strict";
(() => {
  const data = JSON.parse(document.getElementById("review-data").textContent);
  const $ = (name) => document.getElementById("review-" + name);
  const SVG = $("stage").firstElementChild.namespaceURI;
  const PER_PAGE = 60;
  const KEPT = "wsis_d2 review " + data.labels_sha256;
  // The rest of the alphabet is for classes.
  const CLASS_KEYS = "123456789bcdefghijklmnopqstvxyz";

  const masks = data.masks.map(([id, label, score, image, outline, agreements]) =>
    ({ id, label, score, image, outline, agreements }));
  const byId = new Map(masks.map((mask) => [mask.id, mask]));
  const labelOf = new Map(data.classes.map((c, label) => [c.id, label]));
  const scoresOf = data.classes.map((_, label) =>
    masks.filter((m) => m.label === label).map((m) => m.score).sort((a, b) => a - b));

  let decisions = new Map(); // mask id -> "accepted", "rejected" or the number of its class
  let least = new Map(); // number of a class -> least score
  let listed = [];
  let current = 0; // place in the list
  let thumbs = new Map(); // place in the list -> element

  // ---------------------------------------------------------------------------- the review

  const stays = (mask) => {
    const decision = decisions.get(mask.id);
    if (decision === undefined) return mask.score >= (least.get(mask.label) ?? -Infinity);
    return decision !== "rejected";
  };

  const stateOf = (mask) => {
    const decision = decisions.get(mask.id);
    if (decision === undefined) return stays(mask) ? "undecided" : "below";
    return typeof decision === "number" ? "reclassified" : decision;
  };

  const review = () => {
    const ids = (kind) => [...decisions].filter(([, d]) => d === kind).map(([id]) => id);
    return {
      review: 1,
      labels_sha256: data.labels_sha256,
      min_scores: [...least].map(([label, score]) =>
        ({ category_id: data.classes[label].id, score })),
      accepted: ids("accepted"),
      rejected: ids("rejected"),
      reclassified: [...decisions].filter(([, d]) => typeof d === "number")
        .map(([id, label]) => ({ id, category_id: data.classes[label].id })),
    };
  };

  const takeUp = (found) => {
    if (found.review !== 1) throw new Error("it is no review");
    if (found.labels_sha256 !== data.labels_sha256) throw new Error("it is of other labels");
    const known = new Map(), scores = new Map();
    for (const id of found.accepted ?? []) known.set(id, "accepted");
    for (const id of found.rejected ?? []) known.set(id, "rejected");
    for (const { id, category_id } of found.reclassified ?? []) {
      if (!labelOf.has(category_id)) throw new Error("it names an unknown class");
      known.set(id, labelOf.get(category_id));
    }
    for (const { category_id, score } of found.min_scores ?? []) {
      if (!labelOf.has(category_id)) throw new Error("it names an unknown class");
      scores.set(labelOf.get(category_id), Number(score));
    }
    for (const id of known.keys()) {
      if (!byId.has(id)) throw new Error("it names an unknown mask");
    }
    decisions = known;
    least = scores;
  };

  const keep = () => {
    try {
      localStorage.setItem(KEPT, JSON.stringify(review()));
    } catch { /* a browser may forbid it: the download remains */ }
  };

  const begin = () => {
    let kept = null;
    try {
      kept = JSON.parse(localStorage.getItem(KEPT));
    } catch { /* likewise */ }
    for (const found of [kept, data.done]) {
      try {
        if (found) return takeUp(found);
      } catch { /* begin afresh */ }
    }
  };

  // ---------------------------------------------------------------------------- drawing

  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  const extent = (mask) => {
    const numbers = mask.outline.match(/-?\d+/g).map(Number);
    const x = numbers.filter((_, i) => i % 2 === 0), y = numbers.filter((_, i) => i % 2 === 1);
    return [Math.min(...x), Math.min(...y), Math.max(...x), Math.max(...y)];
  };

  const whole = (mask) => {
    const { width, height } = data.images[mask.image];
    return [0, 0, width, height];
  };

  /** A square around the mask, or the image where that is smaller. */
  const closeUp = (mask) => {
    const [x0, y0, x1, y1] = extent(mask);
    const { width, height } = data.images[mask.image];
    const side = Math.max(x1 - x0, y1 - y0, 24) * 1.3;
    const w = Math.min(side, width), h = Math.min(side, height);
    const x = Math.min(Math.max((x0 + x1 - w) / 2, 0), width - w);
    const y = Math.min(Math.max((y0 + y1 - h) / 2, 0), height - h);
    return [x, y, w, h];
  };

  const draw = (mask, box) => {
    const picture = data.images[mask.image];
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", box.map((value) => value.toFixed(1)).join(" "));
    const image = document.createElementNS(SVG, "image");
    image.setAttribute("href", picture.src);
    image.setAttribute("width", picture.width);
    image.setAttribute("height", picture.height);
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", mask.outline);
    svg.append(image, path);
    svg.setAttribute("aria-hidden", "true"); // what it shows is said beside it
    return svg;
  };

  const percent = (value) => value === null ? "unknown" : (100 * value).toFixed(0) + " %";
  const score = (value) => String(Number(value.toPrecision(3)));

  const sentence = (mask) => {
    const decision = decisions.get(mask.id);
    const said = {
      undecided: "undecided, stays", below: "below the least score, goes", accepted: "accepted",
      rejected: "rejected",
    };
    const state = typeof decision === "number"
      ? "is of class " + data.classes[decision].name : said[stateOf(mask)];
    return data.classes[mask.label].name + ", " + state;
  };

  const drawThumb = (place) => {
    const thumb = thumbs.get(place), mask = listed[place];
    if (!thumb) return;
    thumb.className = "thumb " + stateOf(mask);
    thumb.setAttribute("aria-selected", String(place === current));
    thumb.setAttribute("aria-label", sentence(mask));
    const decision = decisions.get(mask.id);
    thumb.lastChild.textContent = typeof decision === "number"
      ? "→ " + data.classes[decision].name : data.classes[mask.label].name;
  };

  const drawPage = () => {
    const pages = Math.max(1, Math.ceil(listed.length / PER_PAGE));
    const page = Math.floor(current / PER_PAGE);
    thumbs = new Map();
    $("list").replaceChildren();
    for (let place = page * PER_PAGE; place < Math.min((page + 1) * PER_PAGE, listed.length);
      place++) {
      const mask = listed[place];
      const thumb = make("div", { id: "review-mask-" + place },
        draw(mask, closeUp(mask)), make("span"));
      thumb.setAttribute("role", "option");
      thumb.addEventListener("click", () => { select(place); $("list").focus(); });
      thumbs.set(place, thumb);
      $("list").append(thumb);
      drawThumb(place);
    }
    $("page").textContent = `page ${page + 1} of ${pages}`;
    $("before").disabled = page === 0;
    $("after").disabled = page === pages - 1;
  };

  const drawMask = () => {
    const mask = listed[current];
    for (const name of ["accept", "reject", "undo", "relabel", "set"]) $(name).disabled = !mask;
    if (!mask) {
      $("stage").replaceChildren();
      $("facts").textContent = "no mask to show";
      $("list").removeAttribute("aria-activedescendant");
      return;
    }
    const svg = draw(mask, whole(mask));
    svg.setAttribute("class", stateOf(mask));
    $("stage").replaceChildren(svg);
    const picture = data.images[mask.image];
    $("facts").textContent = [
      sentence(mask), "score " + score(mask.score),
      ...data.agreements.map((what, i) =>
        `IoU with ${what} ${percent(mask.agreements[i] ?? null)}`),
      picture.labels.length ? "image labels: " + picture.labels.join(", ") : "",
      picture.name, `${current + 1} of ${listed.length}`,
    ].filter(Boolean).join(" · ");
    $("relabel").value = String(typeof decisions.get(mask.id) === "number"
      ? decisions.get(mask.id) : mask.label);
    $("list").setAttribute("aria-activedescendant", "review-mask-" + current);
  };

  const drawCounts = () => {
    const counts = { accepted: 0, rejected: 0, reclassified: 0, undecided: 0, below: 0 };
    const stay = data.classes.map(() => 0);
    for (const mask of masks) {
      counts[stateOf(mask)]++;
      stay[mask.label] += stays(mask);
    }
    const total = stay.reduce((sum, value) => sum + value, 0);
    $("status").textContent =
      `${total} of ${masks.length} masks stay: ${counts.accepted} accepted, ` +
      `${counts.reclassified} of another class, ${counts.undecided} undecided; ` +
      `${counts.rejected} rejected and ${counts.below} below the least score go.`;
    data.classes.forEach((_, label) => {
      const output = $("stay-" + label);
      if (!output) return;
      const value = least.get(label);
      output.textContent = `${stay[label]} of ${scoresOf[label].length} stay` +
        (value === undefined ? "" : `, score ≥ ${score(value)}`);
    });
  };

  const drawScores = () => {
    $("scores").replaceChildren();
    data.classes.forEach(({ name }, label) => {
      const scores = scoresOf[label];
      if (!scores.length) return;
      // One step per mask: so its place, not its score, is what the slider shows.
      const slider = make("input", {
        type: "range", id: "review-least-" + label, min: 0, max: scores.length, step: 1,
      });
      const value = least.get(label) ?? -Infinity;
      const below = scores.findIndex((s) => s >= value);
      slider.value = String(below < 0 ? scores.length : below);
      slider.addEventListener("input", () => {
        const place = Number(slider.value);
        const last = scores[scores.length - 1];
        if (place === 0) least.delete(label);
        else least.set(label, place < scores.length ? scores[place]
          : last + Math.max(1, Math.abs(last)) * 1e-6);
        changed();
      });
      const output = make("output", { id: "review-stay-" + label });
      output.setAttribute("for", slider.id);
      const title = make("label", { textContent: name });
      title.htmlFor = slider.id;
      $("scores").append(make("div", {}, title, slider, output));
    });
  };

  // ---------------------------------------------------------------------------- acting

  const changed = () => {
    keep();
    for (const place of thumbs.keys()) drawThumb(place);
    drawMask();
    drawCounts();
  };

  const select = (place) => {
    if (!listed.length) return;
    const before = current;
    current = Math.min(Math.max(place, 0), listed.length - 1);
    if (!thumbs.has(current)) drawPage();
    drawThumb(before);
    drawThumb(current);
    drawMask();
    // Inside of the list alone: the page stays where it is.
    const list = $("list"), thumb = thumbs.get(current);
    const top = thumb.offsetTop - list.offsetTop;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + thumb.offsetHeight > list.scrollTop + list.clientHeight) {
      list.scrollTop = top + thumb.offsetHeight - list.clientHeight;
    }
  };

  const decide = (decision) => {
    const mask = listed[current];
    if (!mask) return;
    if (decision === undefined) decisions.delete(mask.id);
    else decisions.set(mask.id, decision === mask.label ? "accepted" : decision);
    changed();
    if (decision !== undefined) select(current + 1);
  };

  const list = () => {
    const order = $("order").value, label = $("class").value, show = $("show").value;
    listed = masks.filter((mask) => mask.image >= 0 &&
      (label === "" || mask.label === Number(label)) &&
      (show === "" || stateOf(mask) === show));
    const worst = (i) => (mask) => mask.agreements[i] ?? Infinity;
    const key = order === "score" ? (mask) => mask.score
      : order === "-score" ? (mask) => -mask.score : worst(Number(order));
    listed.sort((a, b) => key(a) - key(b) || a.score - b.score || 0);
    current = 0;
    drawPage();
    drawMask();
    $("list").scrollTop = 0;
  };

  const columns = () => getComputedStyle($("list")).gridTemplateColumns.split(" ").length;

  const MOVES = {
    ArrowLeft: () => current - 1,
    ArrowRight: () => current + 1,
    ArrowUp: () => current - columns() >= 0 ? current - columns() : current,
    ArrowDown: () => current + columns() < listed.length ? current + columns() : current,
    PageUp: () => current - PER_PAGE,
    PageDown: () => current + PER_PAGE,
    Home: () => 0,
    End: () => listed.length - 1,
  };

  const setClass = () => {
    decide(Number($("relabel").value));
    $("list").focus();
  };

  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("select, input")) {
      // Its arrows only choose: a class is set by Enter.
      if (event.target === $("relabel") && event.key === "Enter") setClass();
      else if (event.key === "Escape") $("list").focus();
      else return;
      event.preventDefault();
      return;
    }
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const label = CLASS_KEYS.indexOf(key);
    if (key in MOVES && event.target === $("list")) select(MOVES[key]());
    else if (key === "a") decide("accepted");
    else if (key === "r") decide("rejected");
    else if (key === "u") decide(undefined);
    else if (key === "w") $("relabel").focus();
    else if (key.length === 1 && label >= 0 && label < data.classes.length) decide(label);
    else return;
    event.preventDefault();
  };

  const save = () => {
    const text = JSON.stringify(review(), null, 1) + "\n";
    const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    const link = make("a", { href: address, download: "review.json" });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  };

  const renew = () => {
    drawScores();
    list();
    changed();
  };

  const open = async () => {
    const [file] = $("open").files;
    if (!file) return;
    try {
      takeUp(JSON.parse(await file.text()));
      renew();
    } catch (error) {
      $("status").textContent = `'${file.name}' cannot be taken up: ${error.message}.`;
    }
    $("open").value = "";
  };

  const fill = (select, options) => select.append(...options.map(([value, text]) =>
    make("option", { value: String(value), textContent: text })));

  const names = data.classes.map(({ name }, label) => [label, name]);
  const known = (i) => masks.some((mask) => typeof mask.agreements[i] === "number");
  fill($("order"), [
    ...data.agreements.map((what, i) => [i, `worst agreement with ${what}`])
      .filter(([i]) => known(i)),
    ["score", "lowest score"], ["-score", "highest score"],
  ]);
  fill($("class"), [["", "all"], ...names.filter(([label]) => scoresOf[label].length)]);
  fill($("show"), [["", "all masks"], ["undecided", "undecided"], ["accepted", "accepted"],
    ["rejected", "rejected"], ["reclassified", "of another class"],
    ["below", "below the least score"]]);
  fill($("relabel"), names);
  $("class-keys").append(...names.filter(([label]) => CLASS_KEYS[label])
    .map(([label, name]) => make("li", {}, make("kbd", { textContent: CLASS_KEYS[label] }),
      " " + name)));

  for (const name of ["order", "class", "show"]) $(name).addEventListener("change", list);
  $("work").addEventListener("keydown", onKey);
  $("accept").addEventListener("click", () => decide("accepted"));
  $("reject").addEventListener("click", () => decide("rejected"));
  $("undo").addEventListener("click", () => decide(undefined));
  $("set").addEventListener("click", setClass);
  $("before").addEventListener("click", () => select(current - PER_PAGE));
  $("after").addEventListener("click", () => select(current + PER_PAGE));
  $("save").addEventListener("click", save);
  $("open").addEventListener("change", open);
  $("clear").addEventListener("click", () => {
    if (!confirm("Forget all decisions and least scores?")) return;
    decisions = new Map();
    least = new Map();
    renew();
  });

  begin();
  $("desk").hidden = false;
  renew();
})();
