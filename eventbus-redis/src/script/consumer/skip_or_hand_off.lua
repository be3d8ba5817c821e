-- Skips entries without a handler here, or hands them off. It acknowledges an entry, and records it as skipped, if the
-- group never announced its type and no live member may handle it. It hands off entries of announced types to the
-- consumer `absent`, from which the first member that handles them claims them, so that they wait for no dead member;
-- those of other types to a live member that handles them, or to a silent one, which may handle them. In a partition an
-- entry stays until its owner changes. It ignores entries that are no longer pending on this consumer, and hands off none
-- that was removed from the stream.
--
-- KEYS  stream, members, retry, known types, skipped, relay
-- ARGV  group, consumer, its name as a member (different in a partition), time in which members count as alive (ms),
--       '1' if this is the backlog of the group, whose ids have no meaning later, then id, event type, schema version,
--       position or '', attempts as JSON or '', ...
-- Replies {the number of acknowledged entries, the number of those handed off, the ids that stay, types skipped for the
-- first time, types handed off to absent members}.
local stream, members, retry, known, skipped, relay = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local group, me, my_name, live = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local now, is_owner, is_backlog = now_in_ms(), ARGV[2] ~= ARGV[3], ARGV[5] == '1'

local others, announced = {}, by_name(redis.call('HGETALL', members))
local own = live_member(announced[my_name] or '', now)
for name, text in pairs(announced) do
  local member = live_member(text, now)
  if name ~= my_name and member and not member.left and member.layout == (own and own.layout) then
    local all, names = announced_types(member.event_types)
    others[#others + 1] = { name = name, all = all, names = names }
  end
end
table.sort(others, function(a, b) return a.name < b.name end)
local knows_all, known_names = known_types(known)
local silent = is_owner and {} or silent_members(stream, group, announced, live)

-- A range is `first last count at position of the first and of the last, or '-'`.
local ranges, new_types = {}, {}
local function note_skipped(name, id, position)
  local range = ranges[name]
  if not range then
    local text = redis.call('HGET', skipped, name)
    local first, last, count, at, from, to = string.match(text or '', '^(%S+) (%S+) (%d+) (%d+) (%S+) (%S+)$')
    if first then
      range = { first = first, last = last, count = tonumber(count), at = at, from = from, to = to }
    else
      range = { first = id, last = id, count = 0, at = string.format('%.0f', now), from = '-', to = '-' }
      new_types[#new_types + 1] = name
    end
    ranges[name] = range
  end
  if is_before(id, range.first) then range.first = id end
  if is_before(range.last, id) then range.last = id end
  range.count = range.count + 1
  if position ~= '' then
    if range.from == '-' or is_smaller(position, range.from) then range.from = position end
    if range.to == '-' or is_smaller(range.to, position) then range.to = position end
  end
end

redis.call('HDEL', members, '') -- so that a server out of memory takes the next writes, too: see rebalance.lua
local acknowledged, left, stay, absent = 0, 0, {}, {}
for i = 6, #ARGV, 5 do
  local id, name, position, attempts = ARGV[i], ARGV[i + 1], ARGV[i + 3], ARGV[i + 4]
  local candidates = {}
  for _, other in ipairs(others) do
    if other.all or other.names[name] then candidates[#candidates + 1] = other.name end
  end
  if #redis.call('XPENDING', stream, group, id, id, 1, me) == 1 then
    local is_known = knows_all or known_names[name]
    if #candidates == 0 and not is_known and #silent == 0 then
      acknowledged = acknowledged + redis.call('XACK', stream, group, id)
      redis.call('HDEL', retry, id)
      note_skipped(name, is_backlog and '0-0' or id, position)
    else
      local to, options = ABSENT, {}
      if is_owner then
        stay[#stay + 1] = id
        -- so that health counts it as unfinished, and the stream does not wait for a backlog because of it
        attempts = with_field('stays', 'true', attempts ~= '' and attempts or '{"attempts":0}')
      elseif not is_known and #candidates > 0 then
        to = one_of(candidates, id, i)
      elseif not is_known then
        -- it claims entries that were idle for long
        to, options = one_of(silent, id, i), { 'IDLE', live * 2 }
        if attempts == '' then attempts = '{"attempts":0}' end
        attempts = with_field('left_to', cjson.encode(to), attempts)
      end
      if is_owner or claim(stream, group, to, { id }, options, relay)[id] then
        if #candidates == 0 and is_known then absent[name] = true end
        if attempts == '' then redis.call('HDEL', retry, id) else redis.call('HSET', retry, id, attempts) end
        left = left + 1
      end
    end
  end
end
for name, range in pairs(ranges) do
  local text = { range.first, range.last, string.format('%.0f', range.count), range.at, range.from, range.to }
  redis.call('HSET', skipped, name, table.concat(text, ' '))
end
local absent_types = {}
for name in pairs(absent) do absent_types[#absent_types + 1] = name end
return { acknowledged, left, stay, new_types, absent_types }
