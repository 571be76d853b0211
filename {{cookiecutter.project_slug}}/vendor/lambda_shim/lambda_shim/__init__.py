"""What a Lambda function fed by SQS needs around its business logic.

The package imports nothing heavy at the top: every module here is imported by name where it is
used, because each import is paid again by every cold start.

- ``contract``: what business logic may raise, and the context it is given.
- ``batch``: the SQS handler, with partial batch failures and a deadline guard.
- ``records``: dead-letter records and the stores they lie in.
- ``dispatcher``, ``runner``: what Lambda could not finish, finished by a task.
- ``dead_letters_cli``: the operator's commands.
- ``fan_out``: many messages out of one schedule event.
- ``sqs``, ``dynamodb_ledger``: the AWS ends, which import boto3 when first called.
"""
