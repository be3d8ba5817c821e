-- Removes a group with all its keys, unless it has a live member.
-- KEYS  stream, retry records, members   ARGV  group
-- Replies 'unknown'; or 'live' and the number of live members; or 'retired', the number of pending entries, the id
-- after which the unread ones begin, and their number or -1.
local stream, group = KEYS[1], ARGV[1]
local found = groups_of(stream)[group]
if not found then return {'unknown', 0, '', -1} end

local now, live = now_in_ms(), 0
for _, text in pairs(by_name(redis.call('HGETALL', KEYS[3]))) do
  local member = live_member(text, now)
  if member and not member.left then live = live + 1 end
end
if live > 0 then return {'live', live, '', -1} end

redis.call('DEL', KEYS[2], KEYS[3])
redis.call('XGROUP', 'DESTROY', stream, group)
-- the lag still counts entries that were removed before the group read them
local last = found['last-delivered-id']
local unread = found.lag and math.min(found.lag, redis.call('XLEN', stream)) or -1
if #redis.call('XRANGE', stream, after(last), '+', 'COUNT', 1) == 0 then unread = 0 end
return {'retired', found.pending, last, unread}
