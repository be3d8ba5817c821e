-- Resyncs a store: sets its published position, unless the sentinel is still there.
--
-- Creates the known groups that are missing, at their low-water mark or at the oldest entry, and lists all groups in
-- the floors, so that trimming keeps the entries that they have yet to read. Puts the events before the position into
-- the backlog of groups that have finished no entry, and of groups that consumers of this library joined and the relay
-- does not know. A group that is listed before its first consumer joins gets here what the stream lacks of other stores,
-- too.
--
-- KEYS  stream, relay, floors
-- ARGV  store, epoch, position, '1' if other stores may publish to the stream, for each known group its name and '1' if
--       it has finished no entry
-- Replies {'at', position}, {'moved', position}, {'fenced'} or {'other', store}.

local stream, relay, floors = KEYS[1], KEYS[2], KEYS[3]
local store, epoch, position = ARGV[1], ARGV[2], ARGV[3]
local notes, listed = by_name(redis.call('HGETALL', relay)), by_name(redis.call('HGETALL', floors))
redis.call('XLEN', stream) -- fails if it is no stream
local record = read_record(notes[store])
if record then
  if is_smaller(epoch, record.epoch) then return { 'fenced' } end
  if is_there(stream, record.sentinel) then return { 'moved', record.position } end
end
if ARGV[4] ~= '1' then
  for other in pairs(records_of(notes)) do
    if other ~= store then return { 'other', other } end
  end
end

local groups, newest, first = groups_of(stream), newest_of(stream), first_of(stream)
local made, at, fresh, new = {}, {}, {}, {}
for group in pairs(groups) do fresh[group] = listed[group] and true end
for i = 5, #ARGV, 2 do
  local group = ARGV[i]
  fresh[group] = ARGV[i + 1] == '1' or nil
  local is_new = fresh[group] and not listed[group]
  if is_new and not (groups[group] and is_known(groups[group], nil, floors)) then new[#new + 1] = group end
  if groups[group] then
    at[group] = floor_of(stream, groups[group], first)
  else
    made[group] = start_of(listed[group], '0-0', newest)
    at[group] = after(made[group])
  end
end

if #new > 0 then
  local missing = missing_positions(stream, notes)
  missing[store] = nil
  for other, through in pairs(missing) do
    for _, group in ipairs(new) do begin_backlog(fills_key(floors), other, group, through, now_in_ms()) end
  end
end
for group, start in pairs(made) do redis.call('XGROUP', 'CREATE', stream, group, start, 'MKSTREAM') end
-- the notes may be about a lost stream; the relay publishes again all events that were found missing
for name in pairs(notes) do
  local is_old = string.find(name, 'floor:', 1, true) == 1 or string.find(name, 'hole:' .. store, 1, true) == 1
  if is_old then redis.call('HDEL', relay, name) end
end
for group, floor in pairs(at) do
  if not listed[group] then redis.call('HSET', floors, group, floor) end
  redis.call('HSET', relay, 'floor:' .. group, floor .. ' -')
end
for group in pairs(fresh) do begin_backlog(fills_key(floors), store, group, position, now_in_ms()) end
redis.call('HSET', relay, 'head', first or '', 'began:' .. store, position)
record = { epoch = epoch, position = position, sentinel = '-', rewound_at = '-', rewound_to = '-', last = '-' }
if newest ~= '0-0' then record.rewound_at, record.rewound_to = newest, position end
write_record(redis.call, relay, store, record)
return { 'at', position }
