-- Whether `append_in` appended in this transaction, and that was not undone: it sets this until the transaction ends.
coalesce(current_setting('eventbus.appended_{namespace}', true) = 'on', false)
