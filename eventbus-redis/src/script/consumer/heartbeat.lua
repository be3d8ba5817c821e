-- The heartbeat of a consumer: records that it is alive, and returns the number of its pending entries.
-- KEYS  stream, members
-- ARGV  group, consumer, time in which it counts as alive (ms), its instance, '1' if it has sent a heartbeat before, its
--       long running handler as JSON or ''
-- Replies {the number of entries pending on its name, 1 if a different instance has its name}.
-- A server out of memory refuses the writes, which does no harm.
local stream, members = KEYS[1], KEYS[2]
local group, me, live, instance = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now, pending = now_in_ms(), {}
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
  local info = by_name(consumer)
  pending[info.name] = info.pending
end

local known, is_duplicate = false, 0
local recorded = redis.call('HGETALL', members)
for i = 1, #recorded, 2 do
  local name, member = recorded[i], live_member(recorded[i + 1], now)
  if name == me then
    local is_own = member and member.instance == instance
    known = is_own and not member.left and member.at + live / 6 > now and (member.busy or '') == ARGV[6]
    if member and not is_own and not member.left and ARGV[5] == '1' then is_duplicate = 1 end
  elseif not member and (pending[name] or 0) == 0 then
    -- while entries are pending on it, its record shows that it is a member of this library
    redis.call('HDEL', members, name)
  end
end
if not known then
  local member = { at = now, live_ms = live, instance = instance }
  if ARGV[6] ~= '' then member.busy = ARGV[6] end
  redis.pcall('HSET', members, me, cjson.encode(member))
end
return { pending[me] or 0, is_duplicate }
