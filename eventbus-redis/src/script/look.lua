-- A consumer shows that it lives and which types it handles, notes how far its group is, and looks around.
-- KEYS stream, members, floors   ARGV group, consumer, its types as JSON, how long it counts as alive (ms)
-- Replies with the number of entries pending on its name, then the names and announcements of all live members.
local stream, members, floors = KEYS[1], KEYS[2], KEYS[3]
local group, me, types, live = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function pairs_of(list)
  local map = {}
  for i = 1, #list, 2 do map[list[i]] = list[i + 1] end
  return map
end

local function after(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return ms .. '-' .. string.format('%.0f', tonumber(seq) + 1)
end

local mine = 0
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local info = pairs_of(consumer)
  if info.name == me then mine = info.pending end
end

for _, found in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local info = pairs_of(found)
  if info.name == group then
    local floor = after(info['last-delivered-id'])
    if info.pending > 0 then floor = redis.call('XPENDING', stream, group)[2] end
    if redis.call('HGET', floors, group) ~= floor then redis.call('HSET', floors, group, floor) end
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
  redis.call('HSET', members, me, cjson.encode({ at = now, live_ms = live, types = types }))
end
return reply
