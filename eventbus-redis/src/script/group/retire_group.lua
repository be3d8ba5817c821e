-- Removes a group with all its keys, unless it has a live member.
--
-- KEYS  stream, floors, retry records, members, lease, known types, skipped, then those of its backlog: stream,
--       members, retry records, floors, lease, relay notes, retried entries by consumer
-- ARGV  group
-- Replies 'unknown'; or 'live' and the number of live members; or 'retired', the number of pending entries, the id
-- after which the unread ones begin, and their number or -1.

local stream, floors, group = KEYS[1], KEYS[2], ARGV[1]
local floor = redis.call('HGET', floors, group)
local found
if redis.call('EXISTS', stream) == 1 then
  for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local named = by_name(info)
    if named.name == group then found = named end
  end
end
if not found and not floor then return {'unknown', 0, '', -1} end

local now, live = now_in_ms(), 0
local names = {}
-- a new group may have members in its backlog only
for _, members in ipairs({ KEYS[4], KEYS[9] }) do
  for name, text in pairs(by_name(redis.call('HGETALL', members))) do
    local member = live_member(text, now)
    if member and not member.left and not names[name] then names[name], live = true, live + 1 end
  end
end
if live > 0 then return {'live', live, '', -1} end

redis.call('HDEL', floors, group)
for i = 3, #KEYS do redis.call('DEL', KEYS[i]) end
for name in pairs(by_name(redis.call('HGETALL', fills_key(floors)))) do
  local of = string.match(name, '^fill %S+ ([^\n]*)\n') or string.match(name, '^%a+ ([^\n]*)\n')
  if (of or string.match(name, '^%a+ (.*)$')) == group then redis.call('HDEL', fills_key(floors), name) end
end
redis.call('HDEL', unjoined_key(floors), group)
if not found then return {'retired', 0, before(floor), -1} end
redis.call('XGROUP', 'DESTROY', stream, group)
-- the lag still counts entries that were removed before the group read them
local last = found['last-delivered-id']
local unread = found.lag and math.min(found.lag, redis.call('XLEN', stream)) or -1
if last == CLOSED_ID or #redis.call('XRANGE', stream, after(last), '+', 'COUNT', 1) == 0 then unread = 0 end
return {'retired', found.pending, last, unread}
