-- Whether a backlog has room for more. Needs backlog.lua and pages.lua.

-- Maximum number of unread entries of a backlog, and of their bytes; then filling waits for its consumers.
local MOST_AHEAD, MOST_BYTES_AHEAD = 2000, 16 * 1024 * 1024

-- Returns true if the consumers have as much to read as the backlog may hold.
local function is_full(backlog, group)
  local info = groups_of(backlog)[group]
  if not info or info.lag == 0 then return false end
  if info.lag and info.lag >= MOST_AHEAD then return true end
  local _, more = read_page('XRANGE', { backlog }, after(info['last-delivered-id']), '+', MOST_AHEAD - 1, MOST_BYTES_AHEAD)
  return more == 1
end
