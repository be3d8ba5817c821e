-- Hands off an event that this consumer cannot decode to members that announced its schema version or a later one, which
-- upcasts it: to the consumer `absent`, from which the first such member claims it, so that it never waits for a dead
-- member. A live member gets it directly if the group never announced such a version, or if only a live one may have
-- it: then a member that announced just this version. In a partition the event stays until its owner changes. The
-- handlers that have succeeded stay on record.
-- KEYS  stream, members, retry, known types
-- ARGV  group, consumer, its name as a member (different in a partition), id, event type, schema version, '1' if only a
--       live member may have it, the succeeded handlers as attempts in JSON or ''
-- Replies 'no' if there is no such member, or the entry was removed from the stream, so that no member can read it;
-- 'left', 'stays', or 'lost' if the event is no longer pending on this consumer.
local stream, members, retry, known = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, me, my_name, id, name, version = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local attempts = ARGV[8] ~= '' and ARGV[8] or '{"attempts":0}'
local now, candidates = now_in_ms(), {}
local function decodes(versions, newest)
  if ARGV[7] == '1' then return versions[name .. '@' .. version] end
  return (newest[name] or 0) >= tonumber(version)
end
local announced = by_name(redis.call('HGETALL', members))
local own = live_member(announced[my_name] or '', now)
for other, text in pairs(announced) do
  local member = live_member(text, now)
  if other ~= my_name and member and not member.left and member.layout == (own and own.layout) then
    local _, _, versions, newest = announced_types(member.event_types)
    if decodes(versions, newest) then candidates[#candidates + 1] = other end
  end
end
table.sort(candidates)
local _, _, versions, newest = known_types(known)
local is_awaited = ARGV[7] ~= '1' and decodes(versions, newest)
if #candidates == 0 and not is_awaited then return 'no' end
if #redis.call('XPENDING', stream, group, id, id, 1, me) == 0 then return 'lost' end
if #redis.call('XRANGE', stream, id, id) == 0 then return 'no' end
if me ~= my_name then
  redis.call('HDEL', members, '') -- so that a server out of memory takes the next write, too: see rebalance.lua
  redis.call('HSET', retry, id, with_field('stays', 'true', attempts))
  return 'stays'
end
if is_awaited then
  redis.call('XCLAIM', stream, group, ABSENT, 0, id, 'JUSTID')
  redis.call('HSET', retry, id, with_field('left_for', version, attempts))
else
  redis.call('XCLAIM', stream, group, one_of(candidates, id, 0), 0, id, 'JUSTID')
  if ARGV[8] == '' then redis.call('HDEL', retry, id) else redis.call('HSET', retry, id, ARGV[8]) end
end
return 'left'
