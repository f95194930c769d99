"""What an S3 server, or the way to it, can refuse, and what to do about it; by the names that servers and boto3 give."""

from collections.abc import Mapping

ABSENT = ("NoSuchKey", "404")
DAMAGED_ON_THE_WAY = ("BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody", "RequestTimeout", "NoSuchUpload", "InvalidPart")
"""The object was not written, but may be sent again: its bytes came otherwise, or its unfinished upload was cleaned away."""

AGAIN = (*DAMAGED_ON_THE_WAY, "InternalError", "500")
"""Worth another try: Ceph speaks of an internal error where the upload that it is to complete was cleaned away."""

_RULES: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (
            "EndpointConnectionError",
            "ConnectTimeoutError",
            "ConnectionClosedError",
            "ProxyConnectionError",
            "HTTPClientError",
            "ConnectionError",
        ),
        "the server {server} cannot be reached; check AWS_ENDPOINT_URL_S3 and the network, and run again.",
    ),
    (
        ("ReadTimeoutError", "ResponseStreamingError", "IncompleteReadError"),
        "the server {server} stopped answering; run again, or raise DISTILLERY_S3_TIMEOUT where it is slow.",
    ),
    (("SSLError",), "the certificate of {server} is not trusted; check AWS_ENDPOINT_URL_S3, or name its authority in AWS_CA_BUNDLE."),
    (
        ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError"),
        "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE.",
    ),
    (("InvalidAccessKeyId",), "the server {server} does not know the access key {key_id!r}; check AWS_ACCESS_KEY_ID or AWS_PROFILE."),
    (("SignatureDoesNotMatch",), "the secret does not fit the access key {key_id!r}; check AWS_SECRET_ACCESS_KEY or AWS_PROFILE."),
    (("ExpiredToken", "InvalidToken", "TokenRefreshRequired"), "the credentials of {key_id!r} have expired; fetch new ones and run again."),
    (
        ("AccessDenied", "403", "AllAccessDisabled", "AccountProblem"),
        "the access key {key_id!r} has no permission for it; grant it reading, writing, listing and deleting in the bucket {bucket!r}, "
        "or use another key.",
    ),
    (("NoSuchBucket",), "there is no bucket {bucket!r} on {server}; create it, or correct the URI."),
    (("RequestTimeTooSkewed",), "this machine's clock differs from the server's; set it right and run again."),
    (
        ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307"),
        "the bucket {bucket!r} is in another region; set AWS_REGION to it.",
    ),
    (
        ("QuotaExceeded", "EntityTooLarge", "InsufficientCapacity", "507"),
        "no room is left in the bucket {bucket!r}; free some, or raise its quota.",
    ),
    (("PreconditionFailed", "412"), "it was replaced while it was being read; run again."),
    (DAMAGED_ON_THE_WAY, "the bytes did not arrive as they were sent; check the network and run again."),
    (
        ("SlowDown", "ServiceUnavailable", "InternalError", "500", "502", "503", "504", "RequestLimitExceeded", "Throttling"),
        "the server {server} is overloaded or broken; run again later.",
    ),
)
_SENTENCES = {name: sentence for names, sentence in _RULES for name in names}
_OTHER = "the server {server} answered {code}; check the bucket, the credentials and the server's log."


def refusal(code: str, said: str, names: Mapping[str, str]) -> str:
    """The end of a sentence: what is wrong and what to do.

    Args:
        code: the server's error code, or the name of what boto3 raised.
        said: its message, shown only where the code is not known here.
        names: server, bucket and key_id.
    """
    words = " ".join(said.split()).rstrip(".")
    return _SENTENCES.get(code, _OTHER).format(code=f"{code} ({words})" if words else code, **names)
