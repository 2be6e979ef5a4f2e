const element = document.getElementById("swagger-ui");
const dark = matchMedia("(prefers-color-scheme: dark)");

function followScheme() {
  document.documentElement.classList.toggle("dark-mode", dark.matches);
}

dark.addEventListener("change", followScheme);
followScheme();

SwaggerUIBundle({
  domNode: element,
  url: element.dataset.url,
  deepLinking: true,
  showExtensions: true,
  showCommonExtensions: true,
});
