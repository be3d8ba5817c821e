-- Removes from what is pending in a group the ids of entries that were deleted from the stream, however long they were idle:
-- no entry is idle for as long as NEVER, so that XAUTOCLAIM claims none. It looks at ten times its COUNT. Returns these ids,
-- or what the server refused.
local NEVER = '9007199254740991'
local function remove_gone(stream, group, me, from, look_at)
  local count = math.ceil(look_at / 10)
  local gone = redis.pcall('XAUTOCLAIM', stream, group, me, NEVER, from, 'COUNT', count, 'JUSTID')
  if gone.err then return nil, gone end
  return gone[3] or {}
end

