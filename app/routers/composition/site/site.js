// The paths below /composition/site/ are routes of this script: the server sends index.html for each of them.
const view = document.getElementById("view");

async function tea() {
  const answer = await fetch("/composition/shop/items/tea");
  return answer.ok ? `Tea costs ${(await answer.json()).cents} cents.` : "The shop is closed.";
}

const routes = {
  "/composition/site/": tea,
  "/composition/site/about": async () => "One file of HTML, whatever the path.",
};

const route = routes[location.pathname];
view.textContent = route ? await route() : `There is no page at ${location.pathname}`;
