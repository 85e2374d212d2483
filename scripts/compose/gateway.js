// Opens a shell as the gateway: mongosh --nodb --shell /gateway.js
// Not by its address on the command line, which every list of processes shows.
db = connect(require("fs").readFileSync("/secrets/gateway/gateway_url", "utf8").trim());
