-- Changes the number of partitions, as soon as every known group has finished all entries; until then it stops
-- publishing to partitions. (A stream without partitions stays open until the change seals it.)
--
-- Relays continue in the new partitions from the lowest position of all previous ones.
--
-- KEYS  layout, the stream without partitions, then stream, floors and relay of each previous partition, then of each
--       new one; the stream without partitions counts as a single one
-- ARGV  generation of the layout, previous number of partitions, new number, the caller, time in which publishing stops
--       (ms), or 0 to give up
-- Replies 'changed'; 'given up'; 'other' and the recorded number; 'busy' if a different caller has stopped publishing;
-- or 'waits' and {number of the partition, group, number of unread entries or -1, number of pending entries} ...

local layout, home = KEYS[1], KEYS[2]
local from, to, me = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local now = now_in_ms()
local recorded = redis.call('HMGET', layout, 'generation', 'partitions', 'closed_by', 'closed_until', 'newest')
if recorded[1] and recorded[1] ~= ARGV[1] then return { 'other', recorded[2] } end
if recorded[3] and recorded[3] ~= me and tonumber(recorded[4]) > now then return { 'busy' } end
if ARGV[5] == '0' then
  redis.call('HDEL', layout, 'closed_by', 'closed_until')
  return { 'given up' }
end

local function newest_in(stream)
  local id = newest_of(stream)
  return id == CLOSED_ID and '0-0' or id
end

local waits, known, newest = {}, {}, recorded[5] or '0-0'
local function wait(...) waits[#waits + 1] = { ... } end
for p = 0, from - 1 do
  local stream, floors = KEYS[3 + 3 * p], KEYS[4 + 3 * p]
  local listed = by_name(redis.call('HGETALL', floors))
  if is_before(newest, newest_in(stream)) then newest = newest_in(stream) end
  for name, group in pairs(groups_of(stream)) do
    if is_known(group, listed[name], floors) then
      local last = group['last-delivered-id']
      known[name] = known[name] or listed[name] ~= nil
      local is_behind = #redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1) > 0
      if is_behind or group.pending > 0 then
        wait(p, name, is_behind and (group.lag or -1) or 0, group.pending)
      end
    end
    listed[name] = nil
  end
  for name in pairs(listed) do wait(p, name, -1, 0) end
  for name in pairs(by_name(redis.call('HGETALL', fills_key(floors)))) do
    local group = string.match(name, '^open (.*)$')
    if group then wait(p, group, -1, 0) end
  end
end
if #waits > 0 then
  if from > 1 then redis.call('HSET', layout, 'closed_by', me, 'closed_until', now + ARGV[5]) end
  return { 'waits', waits }
end

-- lowest position and highest epoch of each store that has published to all partitions
local records, publishers = {}, {}
for p = 0, from - 1 do
  for store, record in pairs(records_of(by_name(redis.call('HGETALL', KEYS[5 + 3 * p])))) do
    local all = records[store] or record
    if is_smaller(record.position, all.position) then all.position, all.last = record.position, record.last end
    if is_smaller(all.epoch, record.epoch) then all.epoch = record.epoch end
    all.sentinel, all.rewound_at, all.rewound_to = '-', '-', '-'
    records[store], publishers[store] = all, (publishers[store] or 0) + 1
  end
end

-- Skipped types of each group, merged over all partitions, as ids have no meaning in new ones. The stores deliver them.
local skipped = {}
local function skipped_key(p, group) return (string.gsub(KEYS[4 + 3 * p], 'floors$', 'skipped:')) .. group end
for p = 0, from - 1 do
  for group in pairs(groups_of(KEYS[3 + 3 * p])) do
    local ranges = skipped[group] or {}
    for name, text in pairs(by_name(redis.call('HGETALL', skipped_key(p, group)))) do
      local count, at, first, last = string.match(text, '^%S+ %S+ (%d+) (%d+) (%S+) (%S+)$')
      local all = ranges[name] or { count = 0, at = at, from = '-', to = '-' }
      if count then
        all.count = all.count + count
        if is_smaller(at, all.at) then all.at = at end
        if first ~= '-' and (all.from == '-' or is_smaller(first, all.from)) then all.from = first end
        if last ~= '-' and (all.to == '-' or is_smaller(all.to, last)) then all.to = last end
        ranges[name] = all
      end
    end
    skipped[group] = ranges
  end
end
for p = 0, from - 1 do
  for group in pairs(skipped) do redis.call('DEL', skipped_key(p, group)) end
end
for p = from, from + to - 1 do
  for group, ranges in pairs(skipped) do
    for name, all in pairs(ranges) do
      -- the merged count is written once
      local count = p == from and string.format('%.0f', all.count) or '0'
      local text = { '0-0', '0-0', count, all.at, all.from, all.to }
      redis.call('HSET', skipped_key(p, group), name, table.concat(text, ' '))
    end
  end
end

for p = from, from + to - 1 do
  local stream, floors, relay = KEYS[3 + 3 * p], KEYS[4 + 3 * p], KEYS[5 + 3 * p]
  local last, present = newest_in(stream), groups_of(stream)
  if is_before(newest, last) then newest = last end
  for name, is_listed in pairs(known) do
    if not present[name] then redis.call('XGROUP', 'CREATE', stream, name, last, 'MKSTREAM') end
    if is_listed and redis.call('HEXISTS', floors, name) == 0 then redis.call('HSET', floors, name, after(last)) end
  end
  redis.call('DEL', relay)
  for store, record in pairs(records) do
    if publishers[store] == from then write_record(redis.call, relay, store, record) end
  end
end
if redis.call('EXISTS', home) == 1 then redis.call('XSETID', home, to == 1 and newest or CLOSED_ID) end
local time = redis.call('TIME')
local generation = math.max((tonumber(recorded[1]) or 0) + 1, time[1] * 1000000 + time[2])
redis.call('HSET', layout, 'partitions', to, 'generation', string.format('%.0f', generation), 'newest', newest)
redis.call('HDEL', layout, 'closed_by', 'closed_until')
return { 'changed' }
