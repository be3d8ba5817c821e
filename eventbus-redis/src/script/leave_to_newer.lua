-- Leaves an event that this consumer cannot decode to a member that announced its schema version: to a live one, or to
-- the consumer `absent` until such a member comes. In a partition it stays until its owner changes. The handlers that have
-- succeeded stay noted.
-- KEYS stream, members, retry, known types
-- ARGV group, consumer, its name as a member (another one in a partition), id, event type, schema version, '1' if it is to
--      be left to a live member only, the handlers that have succeeded as tries in JSON or ''
-- Replies 'no' if there is no such member, 'left', 'stays', or 'lost' if the event is another consumer's by now.
local stream, members, retry, known = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, me, my_name, id, name, version = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local tries = ARGV[8] ~= '' and ARGV[8] or '{"attempts":0}'
local now, who = now_in_ms(), {}
local announced = by_name(redis.call('HGETALL', members))
local own = live_member(announced[my_name] or '', now)
for other, text in pairs(announced) do
  local member = live_member(text, now)
  if other ~= my_name and member and not member.left and member.layout == (own and own.layout) then
    local _, _, versions = announced_types(member.types)
    if versions[name .. '@' .. version] then who[#who + 1] = other end
  end
end
table.sort(who)
local _, _, versions = known_types(known)
if #who == 0 and (ARGV[7] == '1' or not versions[name .. '@' .. version]) then return 'no' end
if #redis.call('XPENDING', stream, group, id, id, 1, me) == 0 then return 'lost' end
if me ~= my_name then
  redis.call('HSET', retry, id, with_field('stays', 'true', tries))
  return 'stays'
end
if #who > 0 then
  redis.call('XCLAIM', stream, group, one_of(who, id, 0), 0, id, 'JUSTID')
  if ARGV[8] == '' then redis.call('HDEL', retry, id) else redis.call('HSET', retry, id, ARGV[8]) end
else
  redis.call('XCLAIM', stream, group, ABSENT, 0, id, 'JUSTID')
  redis.call('HSET', retry, id, with_field('left_for', version, tries))
end
return 'left'
