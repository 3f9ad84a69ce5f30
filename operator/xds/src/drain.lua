-- Holds GET /drain?seconds=N open until the proxy may end, which the kubelet asks before it stops the container.
--
-- That is when no connection was open and none was new for QUIET seconds, and after N seconds at the latest. QUIET is a
-- multiple of the time in which a change reaches every node, so one that still sends new flows here is heard of. Whatever
-- goes wrong here leaves the request to the next filter, which holds it for the time that a header of it says.
local QUIET = 15
-- Ports of the listeners; below them is the one that this runs in.
local FIRST, LAST, UNPRIVILEGED = 10000, 16383, 1024
local STATS = "/stats?filter=%5Elistener%5C..*downstream_cx_(active%7Ctotal)%24"

-- Connections that are open, and all that there ever were; nil when it cannot be known.
local function connections(handle)
  local headers, body =
    handle:httpCall("admin", {[":method"] = "GET", [":path"] = STATS, [":authority"] = "admin"}, nil, 1000)
  if headers[":status"] ~= "200" or not body then return nil end
  local found, own = {active = 0, total = 0}, false
  for port, what, count in body:gmatch("listener%.[^ \n]*_(%d+)%.downstream_cx_(%l+): (%d+)") do
    port = tonumber(port)
    if port >= FIRST and port <= LAST then
      found[what] = found[what] + tonumber(count)
    elseif port >= UNPRIVILEGED then
      own = true
    end
  end
  -- Where not even our own listener is counted, nothing said is nothing known.
  if not own then return nil end
  return found.active, found.total
end

-- Waits for a second: a request to our own listener that it holds for so long.
local function wait(handle)
  local request = {[":method"] = "GET", [":path"] = "/wait", [":authority"] = "ops", ["x-envoy-fault-delay-request"] = "1000"}
  return handle:httpCall("ops", request, nil, 5000)[":status"] == "200"
end

function envoy_on_request(handle)
  local path = handle:headers():get(":path") or "-"
  local seconds = tonumber(path:match("^/drain%?seconds=(%d+)$"))
  if not seconds then return end
  local before, quiet = nil, 0
  for _ = 1, seconds do
    if not wait(handle) then return end
    local active, total = connections(handle)
    if active == 0 and total == before then quiet = quiet + 1 else quiet = 0 end
    before = total
    if quiet >= QUIET then break end
  end
  handle:respond({[":status"] = "200"}, "drained\n")
end
