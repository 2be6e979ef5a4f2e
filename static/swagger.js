const element = document.getElementById("swagger-ui");
const dark = matchMedia("(prefers-color-scheme: dark)");

function followScheme() {
  document.documentElement.classList.toggle("dark-mode", dark.matches);
}

dark.addEventListener("change", followScheme);
followScheme();

const ui = SwaggerUIBundle({
  domNode: element,
  url: element.dataset.url,
  ...JSON.parse(element.dataset.parameters),
});
ui.initOAuth(JSON.parse(element.dataset.login));
