package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

const minimal = `scenario: small
regions: {eu: [a]}
services: {cart: {versions: {v1: {}}}}
sidecars: [{region: eu, service: web}]
users: {crowd: {service: web, rate: 1}}
documents: ""
timeline:
`

func TestScenarioErrorsNameTheirLine(t *testing.T) {
	if _, err := ParseScenario([]byte(minimal + "- say: hello\n")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"unknown field":        {minimal + "- sey: hello\n", "line 8: field sey not found"},
		"unknown field inside": {minimal + "- set: {service: cart, version: v1, behaviour: {}}\n", "line 8: field behaviour not found"},
		"wrong type":           {minimal + "- wait: soon\n", "line 8: cannot unmarshal"},
		"two verbs":            {minimal + "- say: a\n- say: b\n  wait: 1s\n", "line 9: a step has one verb; this one has 2: say, wait"},
		"no verb":              {minimal + "- at: 1s\n", "line 8: a step has one verb"},
		"no such version":      {minimal + "- set: {service: cart, version: v9, behavior: {}}\n", `line 8: no version "v9"`},
		"bad behavior":         {minimal + "- set: {service: cart, version: v1, behavior: {failures: [{kind: trailer}]}}\n", "line 8: failure trailer"},
		"no such act":          {minimal + "- {act: begin, rollout: x}\n", `line 8: act "begin"`},
		"act without rollout":  {minimal + "- act: start\n", "line 8: act"},
		"no such control act":  {minimal + "- controlPlane: explode\n", `line 8: controlPlane "explode"`},
		"no such users":        {minimal + "- rate: {nobody: 1}\n", `line 8: no users "nobody"`},
		"within of a wait":     {minimal + "- {wait: 1s, within: 2s}\n", "line 8: within, for and since"},
		"mark that comes later": {
			minimal + "- {expect: users.failed == 0, since: here}\n- mark: here\n", `line 8: no mark "here"`,
		},
		"no such measure":            {minimal + "- expect: users.happy == 0\n", "line 8: \"users.happy == 0\": no measure"},
		"no such operator":           {minimal + "- expect: users.failed = 0\n", `operator "="`},
		"words are not less":         {minimal + "- expect: rollout.x.eu.phase < Halted\n", "only == or !="},
		"share without %":            {minimal + "- expect: users.share.v1 == .5\n", "want a percentage"},
		"duration":                   {minimal + "- expect: users.p99 < 5\n", "value: time: missing unit"},
		"no such region":             {minimal + "- expect: rollout.x.us.phase == Halted\n", `no region "us"`},
		"two documents":              {minimal + "- say: a\n---\nscenario: b\n", "more than one document"},
		"template":                   {strings.Replace(minimal, `""`, `"{{nothing}}"`, 1) + "- say: a\n", "line 6"},
		"dotted measure of a region": {minimal + "- expect: users.in.us.failed == 0\n", `no region "us"`},
		"version not in the region": {
			strings.Replace(strings.Replace(minimal, "eu: [a]", "eu: [a], us: [a]", 1), "v1: {}", "v1: {regions: [us]}", 1) +
				"- expect: service.cart.v1.eu.bad == 0\n", `no version "v1" of service "cart" in region "eu"`,
		},
		"version in no such region": {strings.Replace(minimal, "v1: {}", "v1: {regions: [us]}", 1) + "- say: a\n", `line 3: cart v1: no region "us"`},
		"region like a measure":     {strings.Replace(minimal, "eu: [a]", "eu: [a], bad: [a]", 1) + "- say: a\n", "line 2: bad is the name of a measure"},
		"needs what is not there":   {strings.Replace(minimal, "v1: {}", "v1: {needs: db}", 1) + "- say: a\n", `line 3: cart v1: needs: no service "db"`},
		"needs itself":              {strings.Replace(minimal, "v1: {}", "v1: {needs: cart}", 1) + "- say: a\n", "service cart needs cart in turn"},
		"needs a round": {
			strings.Replace(minimal, "{cart: {versions: {v1: {}}}}", "{cart: {versions: {v1: {needs: db}}}, db: {versions: {v1: {needs: cart}}}}", 1) + "- say: a\n",
			"service db needs cart in turn",
		},
		"needs another protocol": {
			strings.Replace(minimal, "{cart: {versions: {v1: {}}}}", "{cart: {versions: {v1: {needs: db}}}, db: {protocol: grpc, versions: {v1: {}}}}", 1) + "- say: a\n",
			"service db speaks grpc; want http",
		},
		"needs what is elsewhere": {
			strings.Replace(strings.Replace(minimal, "eu: [a]", "eu: [a], us: [a]", 1), "{cart: {versions: {v1: {}}}}",
				"{cart: {versions: {v1: {needs: db}}}, db: {versions: {v1: {regions: [eu]}}}}", 1) + "- say: a\n",
			"service db has no version in region us",
		},
		"negative speed":         {"speed: -1\n" + minimal + "- say: a\n", "line 1: speed -1"},
		"network of no region":   {minimal + "- network: {region: us, cut: true}\n", `line 8: no region "us"`},
		"loss without %":         {minimal + "- network: {region: eu, loss: 5}\n", `line 8: network: loss: "5"; want a percentage`},
		"loss of all":            {minimal + "- network: {region: eu, loss: 100%}\n", "line 8: network"},
		"cut and slow":           {minimal + "- network: {region: eu, cut: true, delay: 1s}\n", "carries nothing"},
		"act in no such region":  {minimal + "- {act: abort, rollout: x, regions: [us]}\n", `line 8: no region "us"`},
		"regions of a wait":      {minimal + "- {wait: 1s, regions: [eu]}\n", "rollout and regions belong to act"},
		"leaked of nothing more": {minimal + "- expect: service.cart.v1.leaked.now == 0\n", "no measure"},
		"users without sidecar": {
			strings.Replace(minimal, "crowd: {service: web", "crowd: {service: app", 1) + "- say: a\n", `line 5: crowd: no sidecar of service "app"`,
		},
	} {
		if _, err := ParseScenario([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	_, err := ParseScenario([]byte(minimal + "- act: a\n- act: b\n"))
	if err == nil || !strings.Contains(err.Error(), "line 8") || !strings.Contains(err.Error(), "line 9") {
		t.Errorf("not all errors at once: %v", err)
	}
}

func TestExpectations(t *testing.T) {
	s := &Scenario{
		Regions: map[string][]string{"eu": {"a"}}, Users: map[string]UsersSetup{"crowd": {}},
		Services: map[string]ServiceSetup{"cart": {Versions: map[string]VersionSetup{"v1": {}}}},
	}
	for text, c := range map[string]struct {
		m    measured
		want bool
	}{
		"users.failed == 0":                    {measured{number: 0}, true},
		"users.crowd.failed.GET <= 2":          {measured{number: 3}, false},
		"users.share.v1 == 33.33%":             {measured{unit: share, number: 1. / 3}, true},
		"users.share.v1 != 25%":                {measured{unit: share, number: .25}, false},
		"users.p99 < 100ms":                    {measured{unit: duration, number: .099}, true},
		"service.cart.v1.reaction >= 1s":       {measured{unit: duration, number: .999}, false},
		"service.cart.v1.outcome.500 > 3":      {measured{number: 4}, true},
		"rollout.x.eu.phase == Halted":         {measured{unit: word, text: "Halted"}, true},
		"rollout.x.eu.reason != CanaryWorse":   {measured{unit: word, text: "CanaryWorse"}, false},
		"rollout.x.eu.weight == 25%":           {measured{unit: share, number: .25}, true},
		"service.cart.v1.outcome.INTERNAL > 0": {measured{number: 0}, false},
		"service.cart.v1.eu.received == 4":     {measured{number: 4}, true},
		"service.cart.v1.shadow > 4":           {measured{number: 4}, false},
		"service.cart.v1.shadow.idle > 4s":     {measured{unit: duration, number: 5}, true},
		"service.cart.v1.eu.leaked == 0":       {measured{number: 0}, true},
		"rollout.x.eu.shadow == 5%":            {measured{unit: share, number: .05}, true},
		"users.in.eu.failed.GET == 0":          {measured{number: 0}, true},
		"users.crowd.in.eu.region.eu > 3":      {measured{number: 3}, false},
		"users.in.eu.reached.eu == 100%":       {measured{unit: share, number: 1}, true},
	} {
		e, err := s.parseExpectation(text)
		if err != nil {
			t.Error(err)
			continue
		}
		if got := e.holds(c.m); got != c.want || e.unit != c.m.unit {
			t.Errorf("%s with %v: %v, want %v", text, c.m, got, c.want)
		}
	}
}

// fakeControl is a control plane without a process: it sets weights through Envoy's own admin interface, halts at the
// first 5xx of v2, and has the sidecar drop v2 a quarter of a second after a kill.
type fakeControl struct {
	t     *testing.T
	admin *Port
	v1    string
	v2    string

	mu      sync.Mutex
	running bool
	status  RegionStatus
	cancel  context.CancelFunc
	loop    sync.WaitGroup
	acts    []string
}

func (f *fakeControl) Start(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running {
		return errors.New("it runs already")
	}
	ctx, f.cancel = context.WithCancel(ctx)
	f.running = true
	f.loop.Go(func() {
		for sleep(ctx, 10*time.Millisecond) == nil {
			body, err := f.ask(http.MethodGet, "/stats?filter=cluster.v2.upstream_rq_5xx")
			if err == nil && strings.Contains(body, "upstream_rq_5xx:") && !strings.Contains(body, ": 0\n") {
				f.weigh(0, "Halted", "CanaryWorse")
				return
			}
		}
	})
	return nil
}

func (f *fakeControl) Stop() error {
	f.mu.Lock()
	cancel := f.cancel
	f.running = false
	f.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	f.loop.Wait()
	return nil
}

func (f *fakeControl) Kill() error {
	err := f.Stop()
	f.loop.Go(func() {
		time.Sleep(250 * time.Millisecond)
		f.weigh(0, "Retreated", "LeaseLapsed")
	})
	return err
}

func (f *fakeControl) Pause() error    { return nil }
func (f *fakeControl) Continue() error { return nil }
func (f *fakeControl) Address() string { return "nowhere" }

func (f *fakeControl) Apply(_ context.Context, documents []byte) error {
	for decoder := yaml.NewDecoder(bytes.NewReader(documents)); ; {
		var d struct{ V1, V2 any }
		if err := decoder.Decode(&d); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if d.V1 != nil {
			address := func(list any) string { return list.([]any)[0].(map[string]any)["address"].(string) }
			f.v1, f.v2 = address(d.V1), address(d.V2)
		}
	}
}

func (f *fakeControl) Act(_ context.Context, verb, rollout string, regions []string) error {
	f.acts = append(f.acts, fmt.Sprint(verb, " ", rollout, regions))
	f.weigh(5000, "Progressing", "StepReached")
	return nil
}

func (f *fakeControl) Rollout(context.Context, string) (map[string]RegionStatus, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.running {
		return nil, errors.New("not running")
	}
	return map[string]RegionStatus{"eu": f.status}, nil
}

func (f *fakeControl) weigh(weight uint32, phase, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.status = RegionStatus{Phase: phase, Reason: reason, Weight: weight}
	if _, err := f.ask(http.MethodPost, fmt.Sprintf("/runtime_modify?w.v1=%d&w.v2=%d", 10_000-weight, weight)); err != nil {
		f.t.Error(err)
	}
}

func (f *fakeControl) ask(method, path string) (string, error) {
	req, err := http.NewRequest(method, "http://"+f.admin.Address()+path, nil)
	if err != nil {
		return "", err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

func (f *fakeControl) Bootstrap(_ context.Context, s Sidecar) ([]byte, error) {
	text := strings.Replace(string(static(s.Port, f.v1, HTTP)), "route: {cluster: cart}", `route: {weighted_clusters: {runtime_key_prefix: w,
              clusters: [{name: v1, weight: 10000}, {name: v2, weight: 0}]}}`, 1)
	clusters := strings.Split(text, "  - name: cart\n    load_assignment:")
	host, port, _ := strings.Cut(f.v2, ":")
	one := "  - name: v1\n    load_assignment:" + strings.Replace(clusters[1], "cluster_name: cart", "cluster_name: v1", 1)
	host1, port1, _ := strings.Cut(f.v1, ":")
	two := strings.NewReplacer("v1", "v2", "port_value: "+port1, "port_value: "+port, host1, host).Replace(one)
	admin := fmt.Sprintf("admin: {address: {socket_address: {address: 127.0.0.1, port_value: %d}}}\nlayered_runtime: {layers: [{name: admin, admin_layer: {}}]}\n", f.admin.Number())
	return []byte(clusters[0] + one + two + admin), nil
}

const played = `
scenario: played
about: what the runner can do
regions: {eu: [a]}
services:
  cart: {versions: {v1: {}, v2: {}}}
sidecars: [{region: eu, service: web}]
users:
  crowd: {service: web, host: cart.example, rate: 200}
documents: |
  kind: Policy
  metadata: {name: quick}
  spec: {steps: [{share: "50%", hold: 1h}], lease: {ttl: 1s}}
  ---
  kind: Rollout
  metadata: {name: cart-v2}
  spec: {service: cart, version: v2, policy: quick}
  v1: {{endpoints "cart" "v1" "eu"}}
  v2: {{endpoints "cart" "v2" "eu"}}
timeline:
- say: it starts
- expect: users.version.v1 >= 10
  within: 10s
- expect: users.share.v2 == 0%
- {act: start, rollout: cart-v2}
- until: rollout.cart-v2.eu.weight == 50%
  within: 5s
- until: service.cart.v2.good >= 10
  within: 10s
- say: the control plane dies
- controlPlane: kill
- until: service.cart.v2.idle >= 1200ms
  within: 10s
- expect: service.cart.v2.outlived < 5s
- mark: alone
- controlPlane: start
- expect: service.cart.v2.received == 0
  since: alone
  for: 100ms
- apply: "kind: Nothing"
- {act: start, rollout: cart-v2}
- rate: {crowd: 100}
- until: service.cart.v2.received > 5
  since: alone
  within: 10s
- set: {service: cart, version: v2, behavior: {failures: [{kind: status, rate: 1, status: 503}]}}
- until: rollout.cart-v2.eu.phase == Halted
  within: 5s
- wait: 1500ms
- expect: service.cart.v2.reaction < 5s
- expect: users.status.503 > 0
- expect: users.failed == 0
- until: rollout.cart-v2.eu.phase == Promoted
- say: never reached
`

func TestRunPlaysAScenario(t *testing.T) {
	s, err := ParseScenario([]byte(played))
	if err != nil {
		t.Fatal(err)
	}
	admin, err := NewPort()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	cp := &fakeControl{t: t, admin: admin, status: RegionStatus{Phase: "Pending", Reason: "NotStarted"}}
	var out bytes.Buffer
	result, err := Run(t.Context(), s, cp, &out)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	var failed []string
	for _, c := range result.Checks {
		if !c.OK {
			failed = append(failed, c.Text)
		}
	}
	if got := strings.Join(failed, "; "); got != "users.failed == 0; rollout.cart-v2.eu.phase == Promoted" || result.OK() {
		t.Errorf("failed expectations: %s", got)
	}
	v1, v2 := result.Served[0].Requests, result.Served[1].Requests
	if result.Users.Done != v1.Received+v2.Received || result.Users.Failed != v2.Bad() || v2.Bad() == 0 {
		t.Errorf("users %+v\nv1 %+v\nv2 %+v", result.Users, v1, v2)
	}
	if len(result.Reactions) != 1 || result.Reactions[0].Failed != v2.Bad() || len(result.Lapses) != 1 || result.Lapses[0].Version != "v2" {
		t.Errorf("reactions %+v, lapses %+v", result.Reactions, result.Lapses)
	}
	for _, text := range []string{"what the runner can do", "== the control plane dies", "rollout cart-v2 in eu: Halted at 0 % (CanaryWorse)",
		"FAILED users.failed == 0", "net 3      eu: cart v2", "net 4      eu: cart v2", "reaction   cart v2", "cart v2: 503 for 100 % of requests", "expected   11 of 13"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("the output does not say %q", text)
		}
	}
	if strings.Contains(out.String(), "never reached") {
		t.Error("the timeline went on after an until that failed")
	}
	if t.Failed() || testing.Verbose() {
		t.Log(out.String())
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	s, err := ParseScenario([]byte(strings.Split(played, "timeline:")[0] + "timeline:\n- wait: 1h\n"))
	if err != nil {
		t.Fatal(err)
	}
	admin, err := NewPort()
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cp := &fakeControl{t: t, admin: admin}
	time.AfterFunc(300*time.Millisecond, cancel)
	if _, err := Run(ctx, s, cp, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
