//! The words by which hosts say that a message did not arrive, in the languages they say it in. Data: each list is
//! looked for without regard to case, anywhere in a text unless it says otherwise.

use std::sync::LazyLock;

use regex::{Regex, RegexSet, RegexSetBuilder};

use crate::mail::Class;

/// Octets of a text in which phrases are looked for.
const LOOKED_AT: usize = 16 << 10;

/// It did not arrive.
const FAILURE: &[&str] = &[
    r"(could|can|was|were|been|is|are|did) ?n[o']t (be )?(deliver|reach|receive|sent)",
    r"cannot (be )?deliver",
    r"(unable|not able|failed|impossible|failure) (to|in) (be )?(deliver|send|transmi)",
    r"wasn't able to (deliver|establish)",
    r"unable to deliver",
    r"undeliver(able|ed)",
    r"(mail|message|delivery).{0,60} (has )?(failed|failure)",
    r"(following|these) (recipient|address|user)\S*.{0,60}(fail|error|reject|unknown|did not|not reach|could not|were not)",
    r"permanent(ly)? (fatal |delivery )?(error|failure|failed)",
    r"fatal errors?",
    r"error (delivering|while|in delivery|sending)",
    r"(had|there was) (an? )?(trouble|error|problem) (delivering|sending|while)",
    r"(was|were|been) (rejected|refused|returned|bounced|blocked)( by|\b)|not been (delivered|sent)",
    r"returned to (the )?sender|returning (message|mail) to sender",
    r"did not (receive|reach|exactly match|get through)",
    r"(no such|unknown|invalid|illegal|nonexist\S*) (user|mailbox|recipient|address|account|local|host|domain)",
    r"(user|mailbox|recipient|address|account|host|domain|name)\S*( name)?( is| are| was)? (unknown|invalid|disabled|inactive|unavailable|suspended|not (found|recogni[sz]ed|known|listed|exist|valid))",
    r"(does|do|did)( no|n'?)t? ?(exist|have an? \S+ (account|mailbox))",
    r"doesn't have an? \S+ account",
    r"(over|exceed\S*|out of) (the |its |their )?(quota|storage|disk)",
    r"mailbox (is )?full",
    r"incorrectly constructed|malformed address|has been frozen|invalid .{0,20}(user|recipient|address|mailbox)",
    r"transcript of session follows",
    r"failure reasons?",
    r"failed recipient",
    r"may not exist, or you may not have permission to post",
    r"has not been collected",
    r"no longer (accepts|receives|in use)",
    // German
    r"(konnte|kann|k(ö|oe)nnen|wurde)n? .{0,120}nicht .{0,60}(zugestellt|zustell|ausgeliefert|erreicht|(ü|ue)bermittelt)",
    r"unzustellbar|nicht zustellbar|nicht zugestellt|zustellung .{0,40}(fehl|nicht)|empf(ä|ae)nger (unbekannt|nicht gefunden)",
    // French
    r"(n'a|n’a|n'ont|n’ont) pas (pu|été|ete).{0,60}|(é|e)chec de (la )?(remise|livraison|distribution)|non remis|non distribu",
    // Spanish, Portuguese, Italian
    r"no se (ha )?(pudo|podido|entreg|pued).{0,60}|no (ha podido|pudo) (ser|entreg)|no se ha entregado|error (en|de) (la )?entrega",
    r"n(ã|a)o (foi poss(í|i)vel|p(ô|o)de ser|foi) .{0,40}entreg|n(ã|a)o entregue|falha na entrega",
    r"(impossibile|non (è|e) stato possibile) .{0,40}(recapit|consegn|inolt)|mancat[oa] (recapito|consegna)|non recapit",
    // Dutch, Swedish, Danish, Norwegian, Finnish
    r"(kon|kan|kunne) (niet|ikke|inte) .{0,60}(bezorgd|afgeleverd|leveres|levereres)|niet (worden )?(bezorgd|afgeleverd)|onbestelbaar",
    r"kunde inte (levereras|leverera)|kunne ikke (leveres|levere)|ei voitu toimittaa|toimitus .{0,20}ep(ä|a)onnistui",
    // Polish, Czech, Hungarian, Turkish
    r"nie (mog(ł|l)a?|zosta(ł|l)a?|uda(ł|l)o) .{0,60}(dostarcz|dor(ę|e)cz)|niedostarcz|nie mo(ż|z)na dostarczy",
    r"(nebyl\S*|nelze|nemohl\S*) .{0,40}(doru(č|c))|nedoru(č|c)",
    r"k(é|e)zbes(í|i)t(é|e)s.{0,40}(sikertelen|nem)|nem (lehet|siker(ü|u)lt) .{0,30}k(é|e)zbes",
    r"(teslim|ilet)(il)?(e|i)?(medi|lemedi|ilemedi|emiyor)",
    // Romanian, Vietnamese
    r"nu (a|au) (putut|fost|reu(ș|s)it) .{0,40}(livrat|trimis|expediat)|nelivrat|kh(ô|o)ng (th(ể|e) )?(g(ử|u)i|chuy(ể|e)n) (được|đến)",
    // Russian, Ukrainian
    r"не (может|могут|удалось|было|была|смогл\S*) .{0,60}доставл|не доставлен|невозможно доставить|недоставлен|доставка .{0,30}(невозможна|не )",
    r"не вдалося .{0,30}доставити|не доставлено",
    // Japanese
    r"送信できません|配信できません|配送できません|届けることができ|送信に失敗|配信に失敗|配送に失敗|エラーのため送信|存在しません|見つかりません|ありません|受信者.{0,20}(不明|拒否)|送信エラー|宛先.{0,10}不明|存在しない",
    // Chinese, Korean
    r"(无法|未能|不能|無法)(被)?(投递|送达|发送|投遞|送達|傳送|递送|傳遞)|退信|投递失败|投遞失敗|不存在|收件人.{0,10}(错误|錯誤|未知)|可能不存在",
    r"(배달|전달|전송|발송)(되지|하지|할 수|될 수|에 실패|이 실패)|존재하지 않|반송",
    // Hebrew, Arabic, Greek
    r"לא ניתן (היה )?(למסור|לשלוח)|לא נמסר|תعذر|تعذر (تسليم|توصيل)|لم يتم (تسليم|توصيل)|δεν (ήταν δυνατή|μπόρεσε|παραδόθηκε)",
];

/// It has not arrived yet.
const DELAY: &[&str] = &[
    r"(has|have|was) not (yet )?been delivered (yet|because)",
    r"not yet been delivered",
    r"(has|have|been|is|being) delayed",
    r"delivery (is |has been )?delayed",
    r"this is (just |only )?a warning|warning message only",
    r"(will|to) (be retried|continue (to )?(try|attempt|retry)|keep trying|try again|retry)",
    r"(message|mail|delivery|we) will (be )?(retr|attempt|continue)",
    r"still (being )?(retried|trying|attempting|in the queue|undelivered)",
    r"delivery attempts? will (continue|be made)",
    r"do not need to (resend|take any action)",
    r"temporar(y|ily) (failure|undeliver)",
    r"delivery status notification \(delay\)",
    r"could not be delivered for .{0,40}(hour|minute|day)",
    r"verz(ö|oe)gert|verz(ö|oe)gerung|weitere zustellversuche|noch nicht zugestellt",
    r"(retard|retardé|différée)|(retrasad|demorad|retardo|ritardat|atrasad|vertraagd|fördröj|forsinket|viivästy)",
    r"opóźni|zpožděn|késleltet|gecik|задерж|отлож|затрим",
    r"遅延|遅れて|再送を|延迟|延遲|지연",
];

/// It never will.
const GIVEN_UP: &[&str] = &[
    r"(have|has|had|am|are|is|.ve|.m|.s|are|was|were|^|[.:;,]) ?(now )?giv(en|ing) up|gave up|not going to try again|no (further|more) (attempts|tries)|removed from the (mail )?queue",
    r"permanent(ly)? (fatal |delivery )?(error|failure|failed)|failed permanently|fatal error|unrecoverable",
    r"(retry time(out)?|retry period|maximum retry|queue lifetime|time ?limit|ttl).{0,40}(exceeded|expired|over|reached)",
    r"(message|envelope|delivery|mail)( time)? (has )?(expired|timed out)",
    r"been in the queue too long|could not be delivered within|was not delivered within|been failing for a long time",
    r"(wird|werden) nicht (mehr|weiter)|endg(ü|ue)ltig|aufgegeben",
    r"再送信?を?(試み|行い)ましたが",
];

const FAILURE_SUBJECT: &[&str] = &[
    r"undeliver|non-?deliver|not delivered|unable to deliver|can(no|')t (be )?deliver|could not be (deliver|sent)",
    r"(delivery|mail|message|e-?mail|sending)\b.{0,40}\b(fail|failed|failure|error|problem|trouble|refused|rejected)",
    r"(fail(ed|ure)|error|problem|trouble)\b.{0,30}\b(deliver|mail|message|notice|sending|sent)",
    r"failure notice|returned (mail|message|to sender)|return(ed|ing) .{0,20}(mail|message|to sender)",
    r"delivery (status|notification|report|has failed)|delivery subsystem|notification.{0,20}delivery",
    r"user unknown|unknown (user|address|recipient)|no such user|bounced? (mail|message)|^bounce",
    r"postmaster notify|nondeliverable|mail system error|message (status|undeliverable)|there was an error|\bfrozen\b",
    r"unzustellbar|nicht zustellbar|zustellung|fehler beim|nicht zugestellt|r(ü|ue)ckl(ä|ae)ufer",
    r"(é|e)chec|non remis|non distribu|non d(é|e)livr|no entregad|no se (ha )?(pudo|puede)|error de entrega|devuelt|devolvid|mensaje devuelto",
    r"n(ã|a)o entregue|falha|impossibile|mancat|non recapit|onbestelbaar|niet bezorgd|levereras|leveres|toimitus",
    r"niedostarcz|zwrot|nedoru|k(é|e)zbes|teslim edilemedi|iletilemedi|не доставлен|недоставлен|не може|ошибка",
    r"配信エラー|送信エラー|エラーメール|配信不能|不達|送信できません|退信|投递失败|无法投递|無法|配達不能|반송|전송 실패|배달되지",
];

const DELAY_SUBJECT: &[&str] = &[
    r"\(delay\)|delayed|not yet been delivered|delivery delay|warning: (message|could not send)|still (being )?(queued|trying)",
    r"verz(ö|oe)gert|verz(ö|oe)gerung|retard|retraso|ritardo|atraso|vertrag|задержк|遅延",
];

/// Nobody there of that name, in other languages than English: who, and that it is not.
const UNKNOWN_ABROAD: &str = concat!(
    r"(benutzer|empf(ä|ae)nger|adresse|postfach|konto)\S*.{0,30}(unbekannt|nicht (bekannt|gefunden|vorhanden)|existiert nicht)",
    r"|unbekannte[rsn]? (benutzer|empf(ä|ae)nger|adresse)",
    r"|(adresse|utilisateur|destinataire|bo(î|i)te|compte)\S*.{0,30}(inconnue?|inexistante?|introuvable|n.existe pas)",
    r"|(usuario|destinatario|direcci(ó|o)n|buz(ó|o)n|cuenta)\S*.{0,30}(no existe|desconocid[oa]|inexistente|no (se )?encontr)",
    r"|(usu(á|a)rio|destinat(á|a)rio|endere(ç|c)o|caixa|conta)\S*.{0,30}(n(ã|a)o (existe|encontrad[oa])|desconhecid[oa]|inexistente)",
    r"|(utente|destinatario|indirizzo|casella)\S*.{0,30}(sconosciut[oa]|inesistente|non (esiste|trovat[oa]))",
    r"|(gebruiker|geadresseerde|adres|mailbox|postvak)\S*.{0,30}(onbekend|bestaat niet|niet gevonden)",
    r"|(u(ż|z)ytkownik|adresat|adres|odbiorca|skrzynka)\S*.{0,30}(nie istnieje|nieznany|nie znaleziono)",
    r"|(u(ž|z)ivatel|adres[ay]t|schr(á|a)nka)\S*.{0,30}(neexistuje|nezn(á|a)m|nenalezen)",
    r"|ismeretlen (c(í|i)mzett|felhaszn)|(c(í|i)mzett|felhaszn(á|a)l(ó|o)|postafi(ó|o)k)\S*.{0,30}(nem (l(é|e)tezik|tal(á|a)lhat)|ismeretlen)",
    r"|(kullan(ı|i)c(ı|i)|al(ı|i)c(ı|i)|hesap|adres)\S*.{0,30}(bulunamad|mevcut de(ğ|g)il|ge(ç|c)ersiz)",
    r"|(mottagare|modtager|mottaker|anv(ä|a)ndare|bruger|bruker|adress)\S*.{0,30}(finns inte|findes ikke|finnes ikke|ok(ä|a)nd|ukendt|ukjent)",
    r"|(пользовател|получател|адрес|ящик|учетн)\S*.{0,30}(не (найден|существует|зарегистрирован)|неизвест)",
    r"|(користувач|одержувач|адрес|скриньк)\S*.{0,30}(не (знайден|існує)|невідом)",
    r"|(χρήστης|παραλήπτης|διεύθυνση)\S*.{0,30}(δεν (υπάρχει|βρέθηκε)|άγνωστ)",
    r"|(收件人|收件者|邮箱|郵箱|信箱|用户|用戶|使用者|地址|帐户|帳戶).{0,10}(不存在|未找到|找不到|未知)|无此(用户|收件人)",
    r"|(사용자|수신자|수신인|메일 ?주소|계정).{0,14}(존재하지|찾을 수 없|알 수 없)|존재하지 않는 (사용자|수신자|주소|계정)",
);

/// Reasons in plain words that carry no code a rule could know.
const CLASSES: &[(Class, &str)] = &[
    (
        Class::SoftExpired,
        r"been in the queue too long|retry time|(envelope|message|delivery|mail)( time)? (has )?(expired|timed out)|last \d+ seconds|giving up|failing for a long time|not delivered within|has not been collected|did not respond|multiple retries|unable to deliver this message after",
    ),
    (
        Class::SoftQuota,
        r"over quota|quota|mailbox (is )?full|storage|容量|(メールボックス|受信箱).{0,12}(一杯|いっぱい|満杯)|已满|已滿|超出.{0,6}(配额|容量)|용량|가득|postfach .{0,20}(voll|(ü|ue)berf(ü|ue)llt)|speicherplatz|bo(î|i)te .{0,30}pleine|espace .{0,20}insuffisant|buz(ó|o)n .{0,20}lleno|caixa .{0,30}cheia|casella .{0,20}piena|mailbox .{0,10}vol\b|skrzynka .{0,20}pe(ł|l)na|ящик .{0,30}переполнен|переповнен",
    ),
    (
        Class::HardBadDomain,
        r"(domain|host)( name)?\S* (does not exist|not found|unknown|invalid)|no such (domain|host)|host unknown|unknown (host|domain)|couldn't find a mail exchanger|couldn't find any host|null mx|does ?n.t receive e?-?mail",
    ),
    (
        Class::HardUnknownUser,
        r"user unknown|unknown user|no such user|user not (exist|found|known)|unknown recipient|recipient name is not recogni[sz]ed|recipient (unknown|not found)|no mailbox here|doesn't have an? \S+ account|(mailbox|account|address|user) (does not|doesn.t) exist|did not exactly match|unknown or illegal|not listed in|address (couldn.t|could not|wasn.t|was not) (be )?found|invalid (user|recipient|address)|(ユーザ|宛先|メールアドレス).{0,12}(存在し(ない|ません)|見つか(らない|りません)|不明)",
    ),
    (Class::HardUnknownUser, UNKNOWN_ABROAD),
    (Class::HardInactive, r"(account|mailbox|user) (is |has been )?(disabled|inactive|suspended|deactivated|closed)"),
    (Class::SoftSystem, r"connect|socket|timed? ?out|not responding|unavailable|temporar"),
];

fn set(patterns: &[&str]) -> RegexSet {
    RegexSetBuilder::new(patterns).case_insensitive(true).size_limit(64 << 20).build().expect("fixed expressions")
}

fn holds(set: &RegexSet, text: &str) -> bool {
    let start = &text[..text.floor_char_boundary(LOOKED_AT)];
    match start.contains('\n') {
        // A sentence goes on over the end of a line.
        true => set.is_match(&start.split_whitespace().collect::<Vec<_>>().join(" ")),
        false => set.is_match(start),
    }
}

/// Whether a text says that a message did not arrive.
pub(crate) fn is_failure(text: &str) -> bool {
    static SET: LazyLock<RegexSet> = LazyLock::new(|| set(FAILURE));
    holds(&SET, text)
}

/// Whether a text says that a message is late.
pub(crate) fn is_delay(text: &str) -> bool {
    static SET: LazyLock<RegexSet> = LazyLock::new(|| set(DELAY));
    holds(&SET, text)
}

/// Whether a text says that nobody tries again.
pub(crate) fn is_given_up(text: &str) -> bool {
    static SET: LazyLock<RegexSet> = LazyLock::new(|| set(GIVEN_UP));
    holds(&SET, text)
}

/// Whether a text or subject says that a message has arrived.
pub(crate) fn is_success(text: &str) -> bool {
    static SET: LazyLock<RegexSet> = LazyLock::new(|| {
        set(&[
            r"\bsuccessful(ly)? (mail )?(deliver|relay)|\b(delivered|relayed) successfully|notification \((success|relay)\)",
            r"erfolgreich (zugestellt|ausgeliefert|(ü|ue)bermittelt)|remis avec succ(è|e)s|entregad[oa] (con (é|e)xito|correctamente|com sucesso)",
            r"consegnat[oa] (con successo|correttamente)|успешно доставлен|正常に配信|投递成功|成功送达|전송(되었|에 성공)",
        ])
    });
    holds(&SET, text)
}

/// Whether words of our own side say that no host was reached, so that none refused anything.
pub(crate) fn is_unreached(text: &str) -> bool {
    static SET: LazyLock<RegexSet> = LazyLock::new(|| {
        set(&[
            r"connect(ion)? (to|with) \S+.{0,80}(refused|timed? ?out|reset|lost|failed|unreachable)|lost connection with",
            r"connection (was )?(refused|reset|timed out|dropped|closed)|no route to host|network (is )?unreachable|did not accept our requests to connect",
        ])
    });
    holds(&SET, text)
}

/// Whether a subject is that of a failure notice.
pub(crate) fn is_failure_subject(subject: &str) -> bool {
    static SET: LazyLock<RegexSet> = LazyLock::new(|| set(FAILURE_SUBJECT));
    holds(&SET, subject)
}

/// Whether a subject is that of a delay notice.
pub(crate) fn is_delay_subject(subject: &str) -> bool {
    static SET: LazyLock<RegexSet> = LazyLock::new(|| set(DELAY_SUBJECT));
    holds(&SET, subject)
}

/// Whether a subject is that of an answer.
pub(crate) fn is_answer(subject: &str) -> bool {
    static ANSWER: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)^\s*(?:re|aw|sv|antw?|odp|ynt|ref|rv|回复|答复)\s*[:：]").expect("a fixed expression")
    });
    ANSWER.is_match(subject)
}

/// The class that plain words name.
pub(crate) fn class(text: &str) -> Option<Class> {
    static SET: LazyLock<RegexSet> =
        LazyLock::new(|| set(&CLASSES.iter().map(|(_, pattern)| *pattern).collect::<Vec<_>>()));
    let first = SET.matches(&text[..text.floor_char_boundary(LOOKED_AT)]).iter().next()?;
    Some(CLASSES[first].0)
}

/// Whether a text begins as somebody's who is not there.
pub(crate) fn is_away(text: &str) -> bool {
    static AWAY: LazyLock<Regex> = LazyLock::new(|| {
        let words = [
            r"out of (the |my )?office|(am|be|is|are|currently|been) (away|absent|on (vacation|holiday|(\w+ )?leave))",
            r"nicht im (b(ü|ue)ro|haus)|(im|in) urlaub|abwesend|nicht erreichbar",
            r"absente? (du|de|jusqu|jusqu.au|le|pour)|en (cong(é|e)s?|vacances)|hors du bureau",
            r"fuera de (la |mi )?oficina|de vacaciones|fora do escrit(ó|o)rio|de f(é|e)rias|fuori (sede|ufficio)|in ferie",
            r"niet (op kantoor|aanwezig)|met vakantie|poza biurem|na urlopie|mimo kancel|na dovolen",
            r"inte på kontoret|ikke på kontoret|på semester|på ferie|lomalla",
            r"в отпуске|вне офиса|отсутству|у відпустці|不在|休暇|休假|出差|부재|휴가",
        ];
        Regex::new(&format!("(?i)(?:{})", words.join("|"))).expect("a fixed expression")
    });
    AWAY.is_match(&text[..text.floor_char_boundary(600)])
}

/// Whether a line ends with words behind which the sender stands, or somebody to ask.
pub(crate) fn introduces_sender(line: &str) -> bool {
    static SENDER: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)(?:sent by|message from|(?:^|\W)from|sender|von|gesendet von|contact|(?:write|mail|forward\w*|speak) to|notify)\s*:?\s*$")
            .expect("a fixed expression")
    });
    SENDER.is_match(line)
}

/// Whether a line announces a copy of the returned message.
pub(crate) fn announces_copy(line: &str) -> bool {
    static COPY: LazyLock<Regex> = LazyLock::new(|| {
        let what = [
            r"original message",
            r"copy of (the|your) (message|mail|original)",
            r"returned message",
            r"unsent message",
            r"(message|mail) headers?",
            r"headers? of (the|your) (original|message)",
            r"forwarded message",
            r"message follows",
            r"header and top",
            r"original-?nachricht",
            r"urspr(ü|ue)ngliche nachricht",
            r"message d'origine",
            r"mensaje original",
            r"messaggio originale",
            r"mensagem original",
            r"исходное сообщение",
            r"копия (сообщения|письма)",
            r"元のメッセージ",
            r"原始邮件|原邮件",
            r"undelivered (mail|message) (follows|returned)",
            r"returned mail follows",
            r"text of your message|body of your message",
        ];
        let what = what.join("|");
        Regex::new(&format!(
            r"(?i)(?:^\W*[-=*_#]{{2,}}\W*.{{0,60}}(?:{what})|^[^.]{{0,80}}(?:{what})[^.]{{0,40}}(?:follows?|below|as follows|received)?[^.\w]{{0,3}}[:.]\s*$)"
        ))
        .expect("a fixed expression")
    });
    !line.is_empty() && line.len() < 300 && COPY.is_match(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_and_delay_are_told_apart() {
        assert!(is_failure("Your message could not be\ndelivered to one or more recipients."));
        assert!(is_failure("Die Nachricht konnte dem folgenden Empfänger nicht zugestellt werden"));
        assert!(is_delay("has not yet been delivered because the server did not respond"));
        assert!(!is_failure("Dear reader, thank you for your order.") && !is_delay("See you on Monday."));
    }

    #[test]
    fn a_copy_is_announced_in_many_ways() {
        for line in [
            "--- Below this line is a copy of the message.",
            "----- Original message -----",
            "    Below is a copy of the original message:",
            "Message headers follow.",
            "   -- The header and top 20 lines of the message follows --",
        ] {
            assert!(announces_copy(line), "{line}");
        }
        assert!(!announces_copy("  ----- The following addresses had permanent fatal errors -----"));
    }
}
