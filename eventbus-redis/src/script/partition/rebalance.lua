-- The heartbeat of a consumer with partitions: announces its types, renews its leases, and takes free partitions up to
-- its share: the partitions divided by the live members that know of them, rounded down; of the partitions that remain, the
-- first members by name take one each. Records the group's low-water mark in its partitions.
--
-- KEYS  members, layout, then for each partition: lease, stream, floors; then known types
-- ARGV  group, consumer, its types as JSON, time in which it counts as alive (ms), its instance, duration of a lease
--       (ms), the generation of the layout, 'takes' if it may take partitions, 'keeps' if it may not, 'leaving' if it is
--       to have no share any more, its long running handler as JSON or '', '1' if it has sent a heartbeat before, then for
--       each partition the epoch under which it owns it or '', then the numbers of the partitions in the order in which to
--       take them
-- Replies {the number of partitions in a newer layout or 0, its share, for each partition {epoch or '', the id that the
-- group was given last, '1' if its last lease expired} ..., 1 if a different instance has its name, names and types of
-- the other live members, the number of types that the group knows}.

local members, layout = KEYS[1], KEYS[2]
local group, me, types, live, instance = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local ttl, count = tonumber(ARGV[6]), (#KEYS - 3) / 3
local now = now_in_ms()

local recorded = redis.call('HMGET', layout, 'generation', 'partitions')
local other_layout, may_take = 0, ARGV[8] == 'takes'
if recorded[1] and is_smaller(ARGV[7], recorded[1]) then
  other_layout, may_take = tonumber(recorded[2]), false
end

-- A server out of memory refuses the first write of a script if its command may need memory. `HDEL` needs none, and this one
-- changes nothing; after it the server accepts all writes. Leases must not end then: consumers are what frees memory.
redis.call('HDEL', members, '')
local others, is_duplicate, alive, rank = {}, 0, 1, 0
local announced = redis.call('HGETALL', members)
for i = 1, #announced, 2 do
  local name, member = announced[i], live_member(announced[i + 1], now)
  if name == me then
    local is_other = member and member.instance ~= instance and not member.left
    if is_other and ARGV[10] == '1' then is_duplicate = 1 end
  elseif member then
    others[#others + 1] = name
    others[#others + 1] = member.event_types
    -- its leases end with the time of one lease: from then on its share is free, too
    local is_current = member.layout == ARGV[7] and now - tonumber(member.at) < ttl
    local has_share = is_current and not member.left and not member.is_leaving
    if has_share then alive = alive + 1 end
    if has_share and name < me then rank = rank + 1 end
  else
    redis.call('HDEL', members, name)
  end
end
local member = { at = now, live_ms = live, event_types = types, instance = instance, layout = ARGV[7] }
if ARGV[8] == 'leaving' then member.is_leaving = true end
if ARGV[9] ~= '' then member.busy = ARGV[9] end
redis.call('HSET', members, me, cjson.encode(member))

-- at least 1: with more members than partitions, an owner keeps its partition, even if other names come first
local share, owned = math.max(1, math.floor(count / alive) + (rank < count % alive and 1 or 0)), 0
local epochs, taken = {}, {}
for p = 1, count do
  local epoch = ARGV[10 + p]
  epochs[p] = ''
  if epoch ~= '' and redis.call('HGET', KEYS[3 * p], 'epoch') == epoch then
    redis.call('HSET', KEYS[3 * p], 'expires_at', now + ttl, 'renewed_at', now)
    epochs[p] = epoch
    owned = owned + 1
  end
end
for i = 11 + count, #ARGV do
  local p = tonumber(ARGV[i]) + 1
  if may_take and owned < share and epochs[p] == '' then
    local lease = redis.call('HMGET', KEYS[3 * p], 'owner', 'epoch', 'expires_at', 'renewed_at')
    local is_free = not lease[3] or not is_live(lease[3], lease[4], now)
    if is_free or lease[1] == instance then
      epochs[p] = take_lease(KEYS[3 * p], instance, lease[2], now, ttl)
      if is_free and lease[3] and lease[3] ~= '0' then taken[p] = 1 end
      owned = owned + 1
    end
  end
end

local parts = {}
for p = 1, count do
  local last = '0-0'
  if epochs[p] ~= '' then last = note_floor(KEYS[3 * p + 1], KEYS[3 * p + 2], group) end
  parts[p] = { epochs[p], last, taken[p] or 0 }
end
return { other_layout, share, parts, is_duplicate, others, redis.call('HLEN', KEYS[#KEYS]) }
