-- Ends the caller's login lease, at once or after a delay. The lease of another caller stays as it is.
--
-- KEYS  token, login, refused
-- ARGV  caller, ms after which the next caller may log in

if redis.call('GET', KEYS[2]) == ARGV[1] then
  if tonumber(ARGV[2]) > 0 then
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
  else
    redis.call('DEL', KEYS[2])
  end
end
return redis.status_reply('OK')
