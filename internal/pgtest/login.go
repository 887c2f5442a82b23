package pgtest

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5" // #nosec G501 -- PostgreSQL's md5 method is what is tested
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// authenticate answers the server's authentication requests until ReadyForQuery.
func (c *Client) authenticate(login Login) error {
	var exchange *scramClient
	for {
		msg, err := c.Next()
		if err != nil {
			return fmt.Errorf("receive: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.AuthenticationCleartextPassword:
			c.Send(&pgproto3.PasswordMessage{Password: login.Password})
		case *pgproto3.AuthenticationMD5Password:
			c.Send(&pgproto3.PasswordMessage{Password: md5Answer(login.User, login.Password, m.Salt)})
		case *pgproto3.AuthenticationSASL:
			if !slices.Contains(m.AuthMechanisms, "SCRAM-SHA-256") {
				return fmt.Errorf("no SCRAM-SHA-256 among %v", m.AuthMechanisms)
			}
			exchange = newSCRAMClient(login.Password)
			c.Send(&pgproto3.SASLInitialResponse{AuthMechanism: "SCRAM-SHA-256", Data: exchange.first()})
		case *pgproto3.AuthenticationSASLContinue:
			if exchange == nil {
				return errors.New("SASLContinue before SASL")
			}
			final, err := exchange.final(m.Data)
			if err != nil {
				return err
			}
			c.Send(&pgproto3.SASLResponse{Data: final})
		case *pgproto3.AuthenticationSASLFinal:
			if exchange == nil {
				return errors.New("SASLFinal before SASL")
			}
			if err := exchange.verify(m.Data); err != nil {
				return err
			}
		case *pgproto3.ErrorResponse:
			return &ServerError{m}
		case *pgproto3.ReadyForQuery:
			return nil
		case *pgproto3.AuthenticationOk, *pgproto3.BackendKeyData, *pgproto3.ParameterStatus,
			*pgproto3.NegotiateProtocolVersion, *pgproto3.NoticeResponse:
		default:
			return fmt.Errorf("unexpected %s during login", Format(m))
		}
	}
}

// md5Answer is "md5" + md5(md5(password + user) + salt), each in hexadecimal.
func md5Answer(user, password string, salt [4]byte) string {
	inner := md5.Sum([]byte(password + user)) // #nosec G401 -- see the import
	outer := md5.Sum(append([]byte(hex.EncodeToString(inner[:])), salt[:]...))
	return "md5" + hex.EncodeToString(outer[:])
}

// scramClient is the client's half of SCRAM-SHA-256 (RFC 5802 and 7677) without channel binding, written apart from the
// product's own so that each can find the other's mistakes.
type scramClient struct {
	password    string
	firstBare   string
	authMessage string
	saltedKey   []byte
}

func newSCRAMClient(password string) *scramClient {
	return &scramClient{password: password, firstBare: "n=,r=" + rand.Text()}
}

func (s *scramClient) first() []byte { return []byte("n,," + s.firstBare) }

// final answers the server's first message with the proof.
func (s *scramClient) final(serverFirst []byte) ([]byte, error) {
	fields := scramFields(string(serverFirst))
	if !strings.HasPrefix(fields["r"], strings.TrimPrefix(s.firstBare, "n=,r=")) {
		return nil, errors.New("SCRAM: the server's nonce does not continue ours")
	}
	salt, err := base64.StdEncoding.DecodeString(fields["s"])
	if err != nil {
		return nil, fmt.Errorf("SCRAM salt: %w", err)
	}
	iterations, err := strconv.Atoi(fields["i"])
	if err != nil {
		return nil, fmt.Errorf("SCRAM iterations: %w", err)
	}
	if s.saltedKey, err = pbkdf2.Key(sha256.New, s.password, salt, iterations, sha256.Size); err != nil {
		return nil, fmt.Errorf("SCRAM key: %w", err)
	}
	withoutProof := "c=biws,r=" + fields["r"]
	s.authMessage = s.firstBare + "," + string(serverFirst) + "," + withoutProof

	clientKey := hmacSHA256(s.saltedKey, "Client Key")
	storedKey := sha256.Sum256(clientKey)
	proof := hmacSHA256(storedKey[:], s.authMessage)
	for i := range proof {
		proof[i] ^= clientKey[i]
	}
	return []byte(withoutProof + ",p=" + base64.StdEncoding.EncodeToString(proof)), nil
}

// verify checks the server's signature: it must know the password's verifier.
func (s *scramClient) verify(serverFinal []byte) error {
	got, err := base64.StdEncoding.DecodeString(scramFields(string(serverFinal))["v"])
	if err != nil {
		return fmt.Errorf("SCRAM server signature: %w", err)
	}
	if !bytes.Equal(got, hmacSHA256(hmacSHA256(s.saltedKey, "Server Key"), s.authMessage)) {
		return errors.New("SCRAM: wrong server signature")
	}
	return nil
}

func scramFields(message string) map[string]string {
	fields := map[string]string{}
	for part := range strings.SplitSeq(message, ",") {
		key, value, _ := strings.Cut(part, "=")
		fields[key] = value
	}
	return fields
}

func hmacSHA256(key []byte, message string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(message))
	return mac.Sum(nil)
}
