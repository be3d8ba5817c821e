-- A consumer shows that it lives and which types it handles, notes how far its group is, and looks around.
-- KEYS stream, members, floors   ARGV group, consumer, its types as JSON, how long it counts as alive (ms),
-- what tells it from another consumer of its name, '1' if it has shown itself before, what it has been busy with for long as
-- JSON or '', the id after which it goes on renewing what was left to absent members, how often it looks while half of
-- what keeps that from being taken over passes
-- Replies with {the number of entries pending on its name, whether another consumer has its name, the names and types of
-- the other live members, the number of entries left to absent members, the id after which to go on renewing, the id that
-- the group was given last}.
-- A server without memory refuses the notes; that harms nobody.
-- How many entries are renewed in one command.
local RENEWED_TOGETHER = 1000

local stream, members, floors = KEYS[1], KEYS[2], KEYS[3]
local group, me, types, live, instance = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local now = now_in_ms()

local mine, absent, pending = 0, 0, {}
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local info = by_name(consumer)
  if info.name == me then mine = info.pending end
  if info.name == ABSENT then absent = info.pending end
  pending[info.name] = info.pending
end
-- No member takes over from `absent` what it does not handle. Each member renews all of them in turn, fast enough alone.
local renew = ARGV[8]
for _ = 1, math.ceil(absent / tonumber(ARGV[9]) / RENEWED_TOGETHER) do
  local found = redis.call('XPENDING', stream, group, renew, '+', RENEWED_TOGETHER, ABSENT)
  local keep = { 'XCLAIM', stream, group, ABSENT, 0 }
  for _, entry in ipairs(found) do
    if entry[3] > live / 3 then keep[#keep + 1] = entry[1] end
  end
  keep[#keep + 1] = 'JUSTID'
  if #keep > 6 then redis.call(unpack(keep)) end
  renew = '-'
  if #found < RENEWED_TOGETHER then break end
  renew = '(' .. found[#found][1]
end

local last = note_floor(stream, floors, group)

local others, known, double = {}, false, 0
local announced = redis.call('HGETALL', members)
for i = 1, #announced, 2 do
  local name, member = announced[i], live_member(announced[i + 1], now)
  if name == me then
    local is_mine = member and member.instance == instance
    known = is_mine and member.types == types and not member.left and member.at + live / 6 > now
      and (member.busy or '') == ARGV[7]
    if member and not is_mine and not member.left and ARGV[6] == '1' then double = 1 end
  elseif member then
    others[#others + 1] = name
    others[#others + 1] = member.types
  elseif (pending[name] or 0) == 0 then
    -- as long as something is pending on it, it is known to be one of ours
    redis.call('HDEL', members, name)
  end
end
if not known then
  local member = { at = now, live_ms = live, types = types, instance = instance }
  if ARGV[7] ~= '' then member.busy = ARGV[7] end
  redis.pcall('HSET', members, me, cjson.encode(member))
end
return { mine, double, others, absent, renew, last }
