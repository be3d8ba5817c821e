-- A consumer shows that it lives and which types it handles, notes how far its group is, and looks around.
-- KEYS stream, members, floors   ARGV group, consumer, its types as JSON, how long it counts as alive (ms)
-- Replies with the number of entries pending on its name, then the names and types of the other live members.
-- A server without memory refuses the notes; that harms nobody.
local stream, members, floors = KEYS[1], KEYS[2], KEYS[3]
local group, me, types, live = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local now = now_in_ms()

local mine = 0
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local info = by_name(consumer)
  if info.name == me then mine = info.pending end
end

for _, found in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local info = by_name(found)
  if info.name == group then
    local floor = after(info['last-delivered-id'])
    if info.pending > 0 then floor = redis.call('XPENDING', stream, group)[2] end
    if redis.call('HGET', floors, group) ~= floor then redis.pcall('HSET', floors, group, floor) end
  end
end

local reply = { mine }
local announced = redis.call('HGETALL', members)
local known
for i = 1, #announced, 2 do
  local name, text = announced[i], announced[i + 1]
  local read, member = pcall(cjson.decode, text)
  local lives = read and member.at + member.live_ms > now
  if name == me then
    known = lives and member.types == types and not member.left and member.at + live / 6 > now
  elseif lives then
    reply[#reply + 1] = name
    reply[#reply + 1] = member.types
  else
    redis.call('HDEL', members, name)
  end
end
if not known then
  redis.pcall('HSET', members, me, cjson.encode({ at = now, live_ms = live, types = types }))
end
return reply
