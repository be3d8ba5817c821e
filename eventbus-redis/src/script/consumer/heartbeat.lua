-- The heartbeat of a consumer: announces its types, records the low-water mark of its group, and returns the group's
-- state.
-- KEYS  stream, members, floors, relay
-- ARGV  group, consumer, its types as JSON, time in which it counts as alive (ms), its instance, '1' if it has sent a
--       heartbeat before, its long running handler as JSON or '', the cursor in the handed-off entries to renew, the
--       number of heartbeats in which to renew all of them
-- Replies {the number of entries pending on its name, 1 if a different instance has its name, names and types of the
-- other live members, the number of handed-off entries, the next cursor, the id that the group was given last}.
-- A server out of memory refuses the writes, which does no harm.

-- Number of entries that one command renews.
local RENEWED_MAX = 1000

local stream, members, floors = KEYS[1], KEYS[2], KEYS[3]
local group, me, types, live, instance = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local now = now_in_ms()

local own_pending, absent, pending = 0, 0, {}
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local info = by_name(consumer)
  if info.name == me then own_pending = info.pending end
  if info.name == ABSENT then absent = info.pending end
  pending[info.name] = info.pending
end
-- No member claims from `absent` what it does not handle. Each member renews all these entries in turn, fast enough
-- alone.
local renew = ARGV[8]
for _ = 1, math.ceil(absent / tonumber(ARGV[9]) / RENEWED_MAX) do
  local found = redis.call('XPENDING', stream, group, renew, '+', RENEWED_MAX, ABSENT)
  local keep = {}
  for _, entry in ipairs(found) do
    if entry[3] > live / 3 then keep[#keep + 1] = entry[1] end
  end
  claim(stream, group, ABSENT, keep, {}, KEYS[4])
  renew = '-'
  if #found < RENEWED_MAX then break end
  renew = '(' .. found[#found][1]
end

local last = note_floor(stream, floors, group)

local others, known, is_duplicate = {}, false, 0
local announced = redis.call('HGETALL', members)
for i = 1, #announced, 2 do
  local name, member = announced[i], live_member(announced[i + 1], now)
  if name == me then
    local is_own = member and member.instance == instance
    known = is_own and member.event_types == types and not member.left and member.at + live / 6 > now
      and (member.busy or '') == ARGV[7]
    if member and not is_own and not member.left and ARGV[6] == '1' then is_duplicate = 1 end
  elseif member then
    others[#others + 1] = name
    others[#others + 1] = member.event_types
  elseif (pending[name] or 0) == 0 then
    -- while entries are pending on it, its record shows that it is a member of this library
    redis.call('HDEL', members, name)
  end
end
if not known then
  local member = { at = now, live_ms = live, event_types = types, instance = instance }
  if ARGV[7] ~= '' then member.busy = ARGV[7] end
  redis.pcall('HSET', members, me, cjson.encode(member))
end
return { own_pending, is_duplicate, others, absent, renew, last }
