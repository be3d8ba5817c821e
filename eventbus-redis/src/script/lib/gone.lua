-- Removes ids of deleted entries from a group's pending ones, regardless of their idle time. No entry is idle for
-- NEVER, so XAUTOCLAIM claims none; it checks ten times its COUNT. Returns these ids, or nil and the server's refusal.
local NEVER = '9007199254740991'
local function remove_gone(stream, group, me, from, page_len)
  local count = math.ceil(page_len / 10)
  local gone = redis.pcall('XAUTOCLAIM', stream, group, me, NEVER, from, 'COUNT', count, 'JUSTID')
  if gone.err then return nil, gone end
  return gone[3] or {}
end

