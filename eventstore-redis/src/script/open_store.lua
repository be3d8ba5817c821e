-- Finds or makes a store; replies with `open` and its id, or with `too new` and the two numbers of its format.
-- KEYS  the store's `meta`; the feed; the positions by event id; the stored event types
-- ARGV  the id of a new store; the format that this release writes, and the lowest format that its readers must know
local function check(key, kind)
  local is = redis.call('TYPE', key).ok
  if is ~= kind and is ~= 'none' then
    return redis.error_reply('WRONGTYPE key `' .. key .. '` is a ' .. is .. ', not of an event store')
  end
end

local wrong = check(KEYS[1], 'hash') or check(KEYS[2], 'stream') or check(KEYS[3], 'hash') or check(KEYS[4], 'hash')
if wrong then return wrong end
local refusal = format_too_new(KEYS[1], ARGV[2])
if refusal then return refusal end
record_format(KEYS[1], ARGV[2], ARGV[3])
local id = redis.call('HGET', KEYS[1], 'id')
if id then return { 'open', id } end -- without a write, which a server out of memory refuses
redis.call('HSET', KEYS[1], 'id', ARGV[1])
return { 'open', ARGV[1] }
