-- Deletes a claim, or a lock, of a worker.
-- KEYS  the claim
-- ARGV  worker
-- Replies with 0 if it is gone or a different worker owns it.
local held = redis.call('GET', KEYS[1])
if not held then
  return 0
end
local is_json, claim = pcall(cjson.decode, held)
if held == ARGV[1] or (is_json and type(claim) == 'table' and claim.worker_id == ARGV[1]) then
  return redis.call('DEL', KEYS[1])
end
return 0
