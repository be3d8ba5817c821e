-- Sets the position of a store back, so that the relay publishes all later events again. A gap that this relay was
-- informed of counts as repaired.
--
-- KEYS  stream, relay
-- ARGV  store, epoch, position
-- Replies {'at', position}, {'moved', position} or {'fenced'}.

local stream, relay, store, epoch, position = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
local notes = by_name(redis.call('HGETALL', relay))
local newest, first = newest_of(stream), first_of(stream)
local record = read_record(notes[store])
if not record then return { 'moved', position } end -- the next range is refused as lost
if is_smaller(epoch, record.epoch) then return { 'fenced' } end

local reply = { 'moved', record.position }
if is_smaller(position, record.position) then
  reply = { 'at', position }
  -- an earlier rewind counts while entries from before it are there
  local goes_on = record.rewound_at ~= '-' and first and not is_before(record.rewound_at, first)
  if not goes_on or is_smaller(position, record.rewound_to) then record.rewound_to = position end
  record.epoch, record.position, record.rewound_at, record.last = epoch, position, newest, '-'
  write_record(redis.call, relay, store, record)
end
local mark = 'hole:' .. store .. ':'
for name, state in pairs(notes) do
  if state == epoch and string.find(name, mark, 1, true) == 1 then redis.call('HDEL', relay, name) end
end
return reply
