-- Decides if a backlog has room for more entries. Needs backlog.lua and pages.lua.

-- Maximum number of unread entries of a backlog, and of their bytes; then filling waits for its consumers.
local MOST_AHEAD, MOST_BYTES_AHEAD = 2000, 16 * 1024 * 1024
-- Number and bytes of the entries from whose size the script estimates the size of all.
local SAMPLE_LEN, SAMPLE_BYTES = 32, 256 * 1024

-- Returns true if the consumers have about as much to read as the backlog may hold.
local function is_full(backlog, group)
  local info = groups_of(backlog)[group]
  if not info then return false end
  -- if the server has lost count, entries that are finished and not removed yet count, too
  local unread = info.lag or redis.call('XLEN', backlog) - info.pending
  if unread >= MOST_AHEAD then return true end
  local sample = read_page('XRANGE', { backlog }, after(info['last-delivered-id']), '+', SAMPLE_LEN, SAMPLE_BYTES)
  local bytes = 0
  for _, entry in ipairs(sample) do bytes = bytes + bytes_of(entry) end
  return #sample > 0 and unread * bytes / #sample >= MOST_BYTES_AHEAD
end
