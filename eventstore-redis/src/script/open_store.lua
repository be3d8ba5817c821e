-- Finds or makes a store; replies with its id and the format of its keys.
-- KEYS  the store's `meta`; the feed; the positions by event id; the stored event types
-- ARGV  the id of a new store, the format of a new store
local function check(key, kind)
  local is = redis.call('TYPE', key).ok
  if is ~= kind and is ~= 'none' then
    return redis.error_reply('WRONGTYPE key `' .. key .. '` is a ' .. is .. ', not of an event store')
  end
end

local wrong = check(KEYS[1], 'hash') or check(KEYS[2], 'stream') or check(KEYS[3], 'hash') or check(KEYS[4], 'hash')
if wrong then return wrong end
if redis.call('HSETNX', KEYS[1], 'id', ARGV[1]) == 1 then redis.call('HSET', KEYS[1], 'format', ARGV[2]) end
return redis.call('HMGET', KEYS[1], 'id', 'format')
