"""How SQS, its event source mapping and a function behave together: one table, run in every ring.

- `rows`: the table. Situation, response, what happens to each message, and where the rule stands.
- `situations`: the rows that are more than a response.
- `function`: the function of the rows; the messages say what it does. `shim`: the same with lambda_shim.
- `scene`: what a row is given: send, look at deliveries, let time pass.
- `local`: the rings `local` and `runtime`, over local_sqs. `aws`: the ring `aws`, a throw-away stack.
- `page`: docs/conformance.md.

    pytest tests/vendor/local_sqs/test_conformance.py                              # local and runtime
    python -m tests.vendor.local_sqs.conformance --aws --region eu-central-1       # AWS itself
"""
