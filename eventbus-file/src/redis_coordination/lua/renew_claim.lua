-- Extends a claim, and restores it if Redis has lost it.
-- KEYS  the claim
-- ARGV  worker, value of the claim, TTL in milliseconds
-- Replies with 0 if a different worker owns it.
local held = redis.call('GET', KEYS[1])
if held then
  local is_json, claim = pcall(cjson.decode, held)
  if not is_json or type(claim) ~= 'table' or claim.worker_id ~= ARGV[1] then
    return 0
  end
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
