"""Signing requests to Amazon OpenSearch Service and Serverless (AWS Signature Version 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from darl_opensearch.errors import UsageError, load

if TYPE_CHECKING:
    from opensearchpy import Urllib3AWSV4SignerAuth

AwsService = Literal["es", "aoss"]


def make_signer(region: str, service: AwsService) -> Urllib3AWSV4SignerAuth:
    """Make opensearch-py's signer, with the credentials that the AWS SDK finds.

    They are looked up as by every AWS tool: ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, the profile that
    ``AWS_PROFILE`` names, or the role of the container or instance; temporary ones are renewed before they expire.

    :param service: ``es``: a domain of OpenSearch Service; ``aoss``: a collection of Serverless.
    :raises MissingExtra: without the extra ``aws``.
    :raises UsageError: without credentials.
    """
    session = load("botocore.session", "aws")
    from opensearchpy import Urllib3AWSV4SignerAuth

    try:
        credentials = session.get_session().get_credentials()
    except load("botocore.exceptions", "aws").BotoCoreError as err:  # such as a profile that does not exist
        raise UsageError(f"the AWS credentials cannot be read ({err})", todo="check AWS_PROFILE") from err
    if credentials is None:
        raise UsageError(
            "there are no AWS credentials",
            where="--aws-region",
            todo="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or run with a role",
        )
    return Urllib3AWSV4SignerAuth(credentials, region, service)
